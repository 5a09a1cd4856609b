"""The denoiser and the text head: the published numbers, sizes, and what padding and company must not change."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from intermoe.config import Config
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError
from intermoe.layers.conditioning import AdaptiveLayerNorm, modulations
from intermoe.moe.config import MoeConfig
from intermoe.moe.selection import Selection
from intermoe.networks.denoiser import Denoiser, DenoiserConfig
from intermoe.text.head import TextHead

Weights = dict[str, Tensor]
Adapter = Callable[[Weights], Weights]

SMALL = DenoiserConfig(width=32, layers=2, heads=4, dropout=0.0, text_layers=1, text_hidden=48, text_heads=4)


def small_denoiser(seed: int = 0, **moe: object) -> Denoiser:
    """A denoiser whose zero-initialised layers are random, so that everything reaches the output."""
    torch.manual_seed(seed)
    config = MoeConfig.parse({"experts": 4, "hidden": 40, **moe})
    model = Denoiser(SMALL, config, latent=12, condition=24)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch: int = 3, length: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    mask_BL = torch.arange(length) < torch.tensor([length, 5, 2])[:batch, None]
    return torch.randn(batch, length, 2, 12), torch.tensor([0, 500, 980])[:batch], torch.randn(batch, 24), mask_BL


# --- golden ------------------------------------------------------------------------------------------------------


def adapt_denoiser(published: Weights, adapt_block: Adapter) -> Weights:
    """Names and shapes of the denoiser's weights in this project, from the published ones."""
    ours = {}
    for kind in ("weight", "bias"):
        ours[f"embed_motion.{kind}"] = published[f"motion_embed.{kind}"]
        ours[f"embed_text.{kind}"] = published[f"text_embed.{kind}"]
        ours[f"out.{kind}"] = published[f"out.linear.{kind}"]
        for place in (0, 2):
            ours[f"embed_timestep.network.{place}.{kind}"] = published[f"embed_timestep.time_embed.{place}.{kind}"]
        for layer in (0, 1):
            theirs, mine = f"blocks.{layer}", f"layers.{layer}"
            for norm, block in (("self_norm", "sa_block.norm"), ("cross_norm", "ca_block.norm")):
                ours[f"{mine}.{norm}.modulation.{kind}"] = published[f"{theirs}.{block}.emb_layers.1.{kind}"]
            partner = published[f"{theirs}.ca_block.xf_norm.emb_layers.1.{kind}"]
            ours[f"{mine}.partner_norm.modulation.{kind}"] = partner
            for attention, block in (("self_attention", "sa_block"), ("cross_attention", "ca_block")):
                stacked = published[f"{theirs}.{block}.attention.in_proj_{kind}"]
                width = len(stacked) // 3
                ours[f"{mine}.{attention}.query.{kind}"] = stacked[:width]
                ours[f"{mine}.{attention}.key_value.{kind}"] = stacked[width:]
                ours[f"{mine}.{attention}.out.{kind}"] = published[f"{theirs}.{block}.attention.out_proj.{kind}"]
    for layer in (0, 1):
        prefix = f"blocks.{layer}.ffn."
        weights = {name.removeprefix(prefix): value for name, value in published.items() if name.startswith(prefix)}
        ours |= {f"layers.{layer}.feed_forward.{name}": value for name, value in adapt_block(weights).items()}
    return ours


@pytest.fixture
def published(golden: Path) -> dict:
    return torch.load(golden / "denoiser.pt", weights_only=True)


def published_denoiser(published: dict, adapt_block: Adapter) -> Denoiser:
    moe = MoeConfig(experts=4, hidden=64, timestep_in_router=True)
    model = Denoiser(DenoiserConfig(width=32, layers=2, heads=4), moe, latent=224, condition=768).eval()
    state = published["state_dict"]
    missing, unexpected = model.load_state_dict(adapt_denoiser(state, adapt_block), strict=False)
    assert not unexpected
    assert all("selection" in name for name in missing)
    for layer, block in enumerate(model.layers):
        block.feed_forward.selection.bias_E.copy_(state[f"blocks.{layer}.ffn.aux_bias"].squeeze(1))
    return model


def test_output_equals_the_published_one(published: dict, adapt_block: Adapter) -> None:
    model = published_denoiser(published, adapt_block)
    x_BLPZ, mask_BL = published["x"].unflatten(-1, (2, 224)), published["mask"][..., 0].bool()
    with torch.no_grad():
        whole = model(x_BLPZ, published["t"], published["cond"], torch.ones_like(mask_BL))
        masked = model(x_BLPZ, published["t"], published["cond"], mask_BL)
    torch.testing.assert_close(whole, published["out_nomask"].unflatten(-1, (2, 224)), atol=1e-5, rtol=0)
    expected = published["out"].unflatten(-1, (2, 224))
    torch.testing.assert_close(masked[mask_BL], expected[mask_BL], atol=1e-5, rtol=0)
    assert not masked[~mask_BL].any()


def test_layers_equal_the_published_ones(published: dict, adapt_block: Adapter) -> None:
    model = published_denoiser(published, adapt_block)
    seen: dict[str, Tensor] = {}
    for place, layer in enumerate(model.layers):
        parts = {".sa": layer.self_attention, ".ca": layer.cross_attention, ".ffn": layer.feed_forward, "": layer}
        for name, part in parts.items():
            part.register_forward_hook(lambda _m, _i, out, key=f"block{place}{name}": seen.update({key: out}))
    mask_BL = published["mask"][..., 0].bool()
    with torch.no_grad():
        model(published["x"].unflatten(-1, (2, 224)), published["t"], published["cond"], mask_BL)
    for name, persons in published["intermediates"].items():
        for ours, theirs in zip(seen[name], persons, strict=True):
            torch.testing.assert_close(ours[mask_BL], theirs[mask_BL], atol=1e-5, rtol=0, msg=name)


def test_loss_and_gradients_equal_the_published_ones(published: dict, adapt_block: Adapter) -> None:
    model, diffusion, case = published_denoiser(published, adapt_block), Diffusion(DiffusionConfig()), published["loss"]
    x0, noise = case["x0"].unflatten(-1, (2, 224)), case["noise"].unflatten(-1, (2, 224))
    mask_BL = published["mask"][..., 0].bool()
    prediction = model(diffusion.q_sample(x0, case["t"], noise), case["t"], published["cond"], mask_BL)
    total, count = diffusion.loss_sums(prediction, x0, mask_BL)
    loss = total / count
    torch.testing.assert_close(loss, case["simple"], atol=1e-5, rtol=0)
    loss.backward()
    expected = adapt_denoiser(case["grads"], adapt_block)
    parameters = dict(model.named_parameters())
    assert set(expected) == set(parameters)
    for name, gradient in expected.items():
        # The gradient by the doubled weight is half of the published one; the adapter gave it doubled.
        scale = 0.25 if "router" in name else 1.0
        torch.testing.assert_close(parameters[name].grad, scale * gradient, atol=1e-5, rtol=1e-4, msg=name)


# --- sizes -------------------------------------------------------------------------------------------------------


def trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("moe", "published"),
    [
        (MoeConfig(experts=4), 164_692_160),
        (MoeConfig(experts=8), 240_238_784),
        (MoeConfig(experts=16), 391_332_032),
        (MoeConfig(selection="dense"), 107_960_768 + 59_136),
    ],
)
def test_sizes_are_the_papers(moe: MoeConfig, published: int) -> None:
    with torch.device("meta"):
        head = TextHead(768, layers=2, hidden=2048, heads=8, dropout=0.1)
        model = Denoiser(DenoiserConfig(), moe, latent=448, condition=768)
    clip_positions = 59_136  # counted in the paper, no part of this model
    assert trainable(head) == 11_029_504
    assert trainable(head) + trainable(model) == published - clip_positions


# --- padding and company -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["dynamic", "dense"])
def test_a_sample_alone_is_as_in_a_padded_batch(selection: str) -> None:
    model = small_denoiser(selection=selection)
    x, t, condition, mask = inputs()
    with torch.no_grad():
        together = model(x, t, condition, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            one = slice(row, row + 1)
            alone = model(x[one, :length], t[one], condition[one], mask[one, :length])
            torch.testing.assert_close(together[one, :length], alone, atol=1e-5, rtol=0)
    assert together.abs().mean() > 0.1


def test_padding_changes_neither_outputs_nor_gradients() -> None:
    x, t, condition, mask = inputs()
    results = []
    for filling in (0.0, 50.0):
        model = small_denoiser().train()
        filled = torch.where(mask[:, :, None, None], x, torch.tensor(filling))
        out = model(filled, t, condition, mask)
        out.square().sum().backward()
        results.append((out, [p.grad for p in model.parameters()], [b.clone() for b in model.buffers()]))
    (out_a, grads_a, counts_a), (out_b, grads_b, counts_b) = results
    torch.testing.assert_close(out_a, out_b, atol=1e-6, rtol=0)
    for a, b in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(counts_a, counts_b, strict=True))


def test_a_batch_of_padding_only_gives_zeros_and_zero_gradients() -> None:
    model = small_denoiser().train()
    x, t, condition, mask = inputs()
    out = model(x, t, condition, torch.zeros_like(mask))
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_swapping_the_persons_swaps_the_result() -> None:
    model = small_denoiser()
    x, t, condition, mask = inputs()
    with torch.no_grad():
        torch.testing.assert_close(model(x.flip(2), t, condition, mask), model(x, t, condition, mask).flip(2))


def test_the_partner_and_the_condition_matter() -> None:
    model = small_denoiser()
    x, t, condition, mask = inputs()
    other = x.clone()
    other[:, :, 1] += 1
    with torch.no_grad():
        base = model(x, t, condition, mask)
        assert (model(other, t, condition, mask) - base)[:, :, 0].abs().max() > 1e-3
        assert (model(x, t, 0 * condition, mask) - base).abs().max() > 1e-3


def test_the_text_router_reads_the_timestep_only_when_asked() -> None:
    x, t, condition, mask = inputs()
    for asked in (False, True):
        model = small_denoiser(timestep_in_router=asked)
        read: list[Tensor] = []
        model.layers[0].feed_forward.router.register_forward_pre_hook(lambda _m, args, read=read: read.append(args[1]))
        with torch.no_grad():
            model(x, t, condition, mask)
            model(x, t * 0 + 7, condition, mask)
        assert torch.equal(*read) is not asked
        if not asked:
            torch.testing.assert_close(read[0], model.embed_text(condition))


def test_a_new_denoiser_predicts_zero_and_trains() -> None:
    torch.manual_seed(0)
    model = Denoiser(SMALL, MoeConfig(experts=4, hidden=40), latent=12, condition=24)
    x, t, condition, mask = inputs()
    assert not model(x, t, condition, mask).any()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    diffusion, losses = Diffusion(DiffusionConfig()), []
    for _ in range(60):
        total, count = diffusion.loss_sums(model(x, t, condition, mask), 0.5 * x.cumsum(1), mask)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append((total / count).item())
    assert losses[-1] < 0.3 * losses[0]


def test_counts_and_biases_are_saved() -> None:
    model = small_denoiser().train()
    model(*inputs())
    other = small_denoiser(seed=5)
    other.load_state_dict(model.state_dict())
    for saved, loaded in zip(model.modules(), other.modules(), strict=True):
        if isinstance(saved, Selection) and isinstance(loaded, Selection):
            assert saved.valid == 2 * (9 + 5 + 2)
            assert torch.equal(saved.selected_E, loaded.selected_E)


def test_autocast_keeps_the_router_in_float32() -> None:
    model = small_denoiser()
    logits: list[Tensor] = []
    model.layers[0].feed_forward.router.register_forward_hook(lambda _m, _i, out: logits.append(out))
    with torch.no_grad():
        exact = model(*inputs())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(*inputs())
    assert logits[1].dtype == torch.float32
    assert (rounded - exact).abs().median() < 0.05


@pytest.mark.parametrize(
    ("config", "values", "key"),
    [
        (DenoiserConfig, {"width": 40, "heads": 3}, "heads = 3"),
        (DenoiserConfig, {"width": 12}, "width"),
        (DenoiserConfig, {"dropout": 1.0}, "dropout"),
        (MoeConfig, {"experts": 2, "c_exp": 3}, "c_exp = 3"),
        (MoeConfig, {"selection": "sparse"}, "selection"),
        (MoeConfig, {"bias_init": 0.0}, "bias_init"),
        (DiffusionConfig, {"sampler_steps": 30}, "sampler_steps = 30"),
    ],
)
def test_wrong_values_are_refused(config: type[Config], values: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        config.parse(values)


# --- text head ---------------------------------------------------------------------------------------------------


def test_text_head_ignores_padding_and_company() -> None:
    torch.manual_seed(0)
    head = TextHead(16, layers=1, hidden=48, heads=4, dropout=0.0).eval()
    states, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([7, 4, 3])[:, None]
    eot = mask.sum(1) - 1
    for context in (torch.no_grad(), torch.enable_grad()):  # without gradients torch takes another path
        with context:
            together = head(states, mask, eot)
            noisy = head(torch.where(mask[..., None], states, 9.0), mask, eot)
            torch.testing.assert_close(together, noisy, atol=1e-5, rtol=0)
            for row, length in enumerate((7, 4, 3)):
                one = slice(row, row + 1)
                alone = head(states[one, :length], mask[one, :length], eot[one])
                torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)


def test_text_head_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(UserError, match="text_heads = 4"):
        TextHead(18, layers=1, hidden=48, heads=4, dropout=0.0)


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("key", ["person_embedding", "person_conditioning"])
def test_persons_are_alike_but_for_what_tells_them_apart(key: str, runs_ahead: bool) -> None:
    """Without it the persons in each other's place give the result in each other's place; with it they do not."""
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    for told_apart in (False, True):
        torch.manual_seed(0)
        config = SMALL.model_copy(update={key: told_apart})
        model = Denoiser(config, MoeConfig(experts=4, hidden=40), latent=12, condition=24).eval()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        model.run_ahead(runs_ahead)
        with torch.no_grad():
            one = model(x_BLPZ, t_B, condition_BW, mask_BL)
            other = model(x_BLPZ.flip(2), t_B, condition_BW, mask_BL).flip(2)
        assert ((one - other).abs().max() < 1e-5) == (not told_apart)


def test_each_person_is_conditioned_as_if_the_whole_batch_were_that_person() -> None:
    """Of the adaptive layer norms, which alone read it: by norm, one person after the other."""
    torch.manual_seed(0)
    norms = [AdaptiveLayerNorm(8) for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.modulation.weight)
    x_PBLD, emb_PBD = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 8)
    for norm, modulation in zip(norms, modulations(norms, emb_PBD), strict=True):
        expected = torch.stack([norm(x_PBLD, emb_BD)[person] for person, emb_BD in enumerate(emb_PBD)])
        torch.testing.assert_close(norm(x_PBLD, emb_PBD), expected)
        torch.testing.assert_close(norm(x_PBLD, modulation), expected)
