"""Precision: products in bf16 where it is chosen, everything that is a sum, a loss or a position in float32."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_model import small_evaluator, small_model
from small_training import made_up_batch, small_objective, stream

from intermoe.layers.precision import dtype_of, in_full, precision_name, product_dtype, products_in
from intermoe.model import InterMoE
from intermoe.moe import experts
from intermoe.training.config import VaeTrainingConfig
from intermoe.training.step import TrainingStep
from intermoe.training.vae import VaeObjective

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "auto"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch, capability, auto):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: capability)
    assert dtype_of("auto", GPU) == auto
    assert (dtype_of("fp32", GPU), dtype_of("bf16", GPU)) == (torch.float32, torch.bfloat16)
    assert dtype_of("auto", CPU) == torch.float32


def test_the_innermost_block_counts():
    x = torch.ones(2, 2)
    with products_in("bf16", CPU):
        assert ((x @ x).dtype, product_dtype(x)) == (torch.bfloat16, torch.bfloat16)
        with in_full(CPU):
            assert ((x @ x).dtype, product_dtype(x)) == (torch.float32, torch.float32)
        with products_in("fp32", CPU):
            assert (x @ x).dtype == torch.float32
    assert (x @ x).dtype == torch.float32


def test_tf32_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: (9, 0))
    # Of PyTorch's own switches only one kind may be touched in a process.
    products = SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=products))
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))
    assert precision_name("fp32", GPU) == "fp32, convolutions in TF32"
    products.allow_tf32 = True
    assert precision_name("fp32", GPU) == "fp32, products and convolutions in TF32"
    assert (precision_name("auto", GPU), precision_name("auto", CPU)) == ("bf16", "fp32")


@pytest.mark.parametrize(
    ("capability", "has_kernel"), [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)]
)
def test_grouped_products_are_asked_for_where_they_are_one_kernel(monkeypatch, capability, has_kernel):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: capability)

    def asked(device: torch.device, dtype: torch.dtype) -> bool:
        rows: Any = SimpleNamespace(device=device, dtype=dtype)
        return experts._has_kernel(rows)

    assert asked(GPU, torch.bfloat16) is has_kernel
    assert asked(GPU, torch.float32) is False
    assert asked(CPU, torch.float32) is True


def test_a_step_in_bf16_is_near_that_in_fp32_and_keeps_float32_weights():
    losses, weights = {}, {}
    for precision in ("fp32", "bf16", "auto"):
        objective = small_objective(training={"precision": precision})
        take_step = TrainingStep(objective, stream())
        losses[precision] = [take_step(step, made_up_batch(step)).loss for step in range(3)]
        weights[precision] = torch.cat([parameter.detach().flatten() for parameter in objective.parameters()])
    assert weights["bf16"].dtype == torch.float32
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"] == losses["auto"]
    assert torch.equal(weights["auto"], weights["fp32"])


def test_the_losses_of_the_vae_are_float32_sums_of_what_bf16_reconstructs():
    def sums(precision: str) -> dict[str, torch.Tensor]:
        values = {"epochs": 1, "batch_size": 4, "window": 32, "precision": precision}
        objective = VaeObjective(small_model(), VaeTrainingConfig.parse(values)).eval()
        batch = made_up_batch(0)
        batch["features"] = batch["features"][:, :, 0]
        found: dict[str, torch.Tensor] = objective.measure(batch)
        return found

    exact, rounded = sums("fp32"), sums("bf16")
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.02, abs=1e-6)
    assert rounded["reconstruction"] != exact["reconstruction"]


def test_what_a_training_in_bf16_validates_is_decoded_as_users_get_it():
    """As bf16 encodes it, and as float32 decodes that."""
    values = {"epochs": 1, "batch_size": 4, "window": 32, "precision": "bf16"}
    objective = VaeObjective(small_model(), VaeTrainingConfig.parse(values)).eval()
    batch = made_up_batch(0)
    batch["features"] = batch["features"][:, :, 0]
    vae, x_BTF = objective.model.vae, objective.model.normaliser.normalise(batch["features"])
    with torch.no_grad():
        with products_in("bf16", CPU):
            mean = vae.encode(x_BTF).mean_BLNC
        _, measured = objective._run(batch)
        frames = int(batch["frames"].min()) // 4 * 4
        torch.testing.assert_close(measured[:, :frames], vae.decode(mean)[:, :frames], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def model() -> InterMoE:
    return small_model()


def test_motion_is_decoded_in_float32_in_any_block(model):
    latent = torch.randn(2, 5, 2, model.latent)
    with torch.no_grad():
        expected = model.decode(latent)
        with products_in("bf16", CPU):
            assert torch.equal(model.decode(latent), expected)


def test_sampling_in_bf16_gives_nearly_the_same_motion(model):
    noise, condition = torch.randn(2, 5, 2, model.latent), torch.randn(2, 384)
    before = model.diffusion
    try:
        sampled = {}
        for precision in ("fp32", "bf16", "auto"):
            model.set_sampling(precision=precision)
            with torch.no_grad():
                sampled[precision] = model.sample(noise, condition)
    finally:
        model.diffusion = before
    assert sampled["bf16"].dtype == torch.float32
    assert torch.equal(sampled["auto"], sampled["fp32"])
    error = (sampled["bf16"] - sampled["fp32"]).square().mean().sqrt() / sampled["fp32"].square().mean().sqrt()
    assert 0 < error < 0.1


def test_embeddings_in_bf16_have_their_length_in_float32(model):
    evaluator = small_evaluator(model)
    features, frames = torch.randn(3, 32, 2, 262), torch.tensor([32, 20, 8])
    with torch.no_grad():
        exact = evaluator.embed_motion(features, frames)
        with products_in("bf16", CPU):
            rounded = evaluator.embed_motion(features, frames)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=-1), exact.norm(dim=-1))
    assert 0 < (rounded - exact).norm(dim=-1).max() < 0.05 * exact.norm(dim=-1).min()
