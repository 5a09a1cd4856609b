"""MLD's denoiser against a plain written-out form, with and without experts, and what company must not change.

Legend: B batch, L = 1 latent frame, P = 1 person, Z numbers of the latent, W condition width, N positions, E experts.
"""

import math
from typing import Any

import pytest
import torch
from plain_transformer import Weights, gelu_network, linear, skip_transformer
from torch import Tensor, nn
from torch.nn import functional as F

from intermoe.layers.precision import products_in
from intermoe.layers.stored_weights import check_fit
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, selections, update_biases
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.mld import MldDenoiser

WIDTH, HEADS, LAYERS, HIDDEN, CONDITION, EXPERTS = 16, 4, 5, 24, 12, 4
SMALL = DenoiserConfig(width=WIDTH, layers=LAYERS, heads=HEADS, dropout=0.0)
ROUTED: list[dict[str, Any]] = [
    {"selection": "dynamic"},
    {"selection": "dynamic", "router": "motion"},
    {"selection": "dynamic", "router": "text"},
    {"selection": "dynamic", "timestep_in_router": True},
    {"selection": "token_choice", "c_exp": 2},
    {"selection": "expert_choice", "c_exp": 2},
]


def network(seed: int = 0, **moe: object) -> MldDenoiser:
    """A small network whose norms and biases are random; its experts are chosen unevenly."""
    torch.manual_seed(seed)
    config = MoeConfig.parse({"selection": "dense", "experts": EXPERTS, "hidden": HIDDEN, **moe})
    model = MldDenoiser(SMALL, config, WIDTH, CONDITION)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
        if ".router." in name:
            nn.init.normal_(parameter, std=0.6)
    return model.eval()


def inputs(batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x_BLPZ = torch.randn(batch, 1, 1, WIDTH, generator=rng)
    condition_BW = torch.randn(batch, CONDITION, generator=rng)
    return x_BLPZ, torch.tensor([0, 500, 980, 7, 40])[:batch], condition_BW, torch.ones(batch, 1, dtype=torch.bool)


# --- plain form: one motion -------------------------------------------------------------------------------------------


def experts_of(logits: Tensor, moe: MoeConfig) -> list[int]:
    """Whom a token of a network that was never trained goes to."""
    if moe.selection == "token_choice":
        return sorted(range(EXPERTS), key=lambda e: -logits[e].item())[: int(moe.c_exp)]
    # Biases start at -0.5, thresholds at 0.5.
    return [e for e in range(EXPERTS) if 1 / (1 + math.exp(-logits[e].item())) > 0.5]


def routed(weights: Weights, name: str, token: Tensor, text: Tensor, moe: MoeConfig) -> Tensor:
    """The sum of the experts' outputs for one token."""
    shares = {"synergistic": (moe.alpha, 1 - moe.alpha), "motion": (1.0, 0.0), "text": (0.0, 1.0)}[moe.router]
    logits = torch.zeros(EXPERTS, dtype=torch.float64)
    for part, given, share in zip(("motion", "text"), (token, text), shares, strict=True):
        if share:
            logits = logits + share * weights[f"{name}.router.{part}.weight"] @ given
    gates, out = logits.exp() / logits.exp().sum(), torch.zeros_like(token)
    for e in experts_of(logits, moe):
        gate, up = (token @ weights[f"{name}.experts.inward_EDH"][e]).chunk(2)
        out = out + gates[e] * (gate / (1 + (-gate).exp()) * up @ weights[f"{name}.experts.outward_EHD"][e])
    return out


def plain(weights: Weights, moe: MoeConfig, x: Tensor, t: int, condition: Tensor) -> Tensor:
    angles = [t * 10000.0 ** (-2 * pair / CONDITION) for pair in range(CONDITION // 2)]
    waves = torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)]).double()
    time = linear(weights, "embed_timestep.network.2", F.silu(linear(weights, "embed_timestep.network.0", waves)))
    text = linear(weights, "embed_text", condition.clamp(min=0))
    read = time + text if moe.timestep_in_router else text

    def feed(name: str, tokens: Tensor) -> Tensor:
        if moe.selection == "dense":
            return gelu_network(weights, f"{name}.network", tokens)
        nothing = torch.zeros_like(tokens[0])
        return torch.stack([routed(weights, name, tokens[0], read, moe), nothing, nothing])

    tokens = torch.stack([x, time, text]) + weights["place_SD"]
    return skip_transformer(weights, "transformer", tokens, layers=LAYERS, heads=HEADS, feed=feed)[0]


@pytest.mark.parametrize("moe", [{"selection": "dense"}, *ROUTED], ids=str)
def test_values_and_gradients_are_those_of_a_plain_form(moe: dict[str, Any]) -> None:
    model, (x_BLPZ, t_B, condition_BW, mask_BL) = network(**moe), inputs()
    x_BLPZ.requires_grad_()
    found_BLPZ, hands = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    assert hands is None
    found_BLPZ.square().sum().backward()
    weights = {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}
    config = MoeConfig.parse(moe)
    x_BZ = x_BLPZ.detach().double().flatten(1).requires_grad_()
    expected_BZ = torch.stack(
        [
            plain(weights, config, x, t, condition)
            for x, t, condition in zip(x_BZ, t_B.tolist(), condition_BW.double(), strict=True)
        ]
    )
    torch.testing.assert_close(found_BLPZ.flatten(1).double(), expected_BZ, atol=2e-5, rtol=0)
    expected_BZ.square().sum().backward()
    torch.testing.assert_close(x_BLPZ.grad.flatten(1).double(), x_BZ.grad, atol=1e-4, rtol=1e-4)
    for key, parameter in model.named_parameters():
        expected = weights[key].grad
        if expected is None:  # an expert of a layer that nobody chose
            assert parameter.grad is None or not parameter.grad.any(), key
            continue
        off = (parameter.grad - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        assert off < 2e-4, key


# --- what must not change it ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("moe", [{"selection": "dense"}, *ROUTED], ids=str)
def test_company_changes_nothing_and_where_there_is_no_motion_there_is_nothing(moe: dict[str, Any]) -> None:
    model, (x_BLPZ, t_B, condition_BW, mask_BL) = network(**moe), inputs()
    together_BLPZ, _ = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    for row in range(5):
        one = slice(row, row + 1)
        alone_BLPZ, _ = model.predict(x_BLPZ[one], t_B[one], condition_BW[one], mask_BL[one])
        torch.testing.assert_close(alone_BLPZ, together_BLPZ[one], atol=1e-5, rtol=0)
    mask_BL[3] = False
    x_BLPZ[3] = torch.nan
    without_BLPZ, _ = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    assert not without_BLPZ[3].any()
    others = [0, 1, 2, 4]
    torch.testing.assert_close(without_BLPZ[others], together_BLPZ[others], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_it_predicts_depends_on_motion_timestep_and_text() -> None:
    for moe in ({"selection": "dense"}, *ROUTED):
        model, (x_BLPZ, t_B, condition_BW, mask_BL) = network(**moe), inputs()
        found_BLPZ, _ = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
        for other in (
            (x_BLPZ + 1, t_B, condition_BW),
            (x_BLPZ, t_B + 300, condition_BW),
            (x_BLPZ, t_B, condition_BW + 1),
        ):
            changed_BLPZ, _ = model.predict(*other, mask_BL)
            assert (changed_BLPZ - found_BLPZ).abs().amax(dim=-1).min() > 1e-4


@torch.no_grad()
def test_products_in_bf16_are_near_and_the_result_is_float32() -> None:
    for selection in ("dense", "token_choice"):
        model, given = network(selection=selection, c_exp=EXPERTS), inputs()
        with products_in("bf16", torch.device("cpu")):
            found_BLPZ, _ = model.predict(*given)
        assert found_BLPZ.dtype == torch.float32
        torch.testing.assert_close(found_BLPZ, model.predict(*given)[0], atol=0.1, rtol=0.1)


# --- experts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moe", ROUTED, ids=str)
def test_the_latent_tokens_of_the_batch_are_the_pool_of_each_layer(moe: dict[str, Any]) -> None:
    model, given = network(**moe).train(), inputs()
    given[3][1] = False
    pools: list[TokenPool] = []
    gates: list[Tensor] = []

    def note(_layer: nn.Module, given: tuple[Tensor, TokenPool], found: Assignment) -> None:
        pools.append(given[1])
        gates.append(found.gates(5))

    for layer in selections(model):
        layer.register_forward_hook(note)
    model.predict(*given)
    assert len(pools) == len(model.layers) == LAYERS
    for pool, gate_NE in zip(pools, gates, strict=True):
        assert pool.shape == (1, 5, 1)
        assert pool.position_S.tolist() == [0, 2, 3, 4]
        assert not gate_NE[1].any()
    for layer in selections(model):
        assert layer.valid == 4


def test_experts_learn_how_many_motions_they_take() -> None:
    model, given = network(selection="dynamic", c_exp=1, sigma=0.01).train(), inputs()
    model.predict(*given)
    taken = [(layer.selected_E.clone(), layer.bias_E.clone()) for layer in selections(model)]
    update_biases(model)
    for layer, (selected_E, before_E) in zip(selections(model), taken, strict=True):
        # A fourth of 5 motions is each expert's share.
        step_E = torch.where(selected_E > 5 / EXPERTS, -0.01, 0.01).float()
        torch.testing.assert_close(layer.bias_E, before_E + step_E)


@torch.no_grad()
def test_a_host_that_runs_ahead_computes_the_same() -> None:
    for moe in ROUTED:
        model, given = network(**moe), inputs()
        expected_BLPZ, _ = model.predict(*given)
        model.run_ahead(True)
        torch.testing.assert_close(model.predict(*given)[0], expected_BLPZ, atol=1e-5, rtol=0)
        pool = TokenPool.of_lengths([1] * 5, num_frames=1, num_persons=MldDenoiser.num_token_rows)
        torch.testing.assert_close(model.predict(*given, pool)[0], expected_BLPZ, atol=1e-5, rtol=0)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_parameters_are_as_many_as_those_of_the_published_denoiser() -> None:
    """By the shapes of its code (github.com/ChenFengYe/motion-latent-diffusion, 2f4bc43).

    It also holds 500 places each of tokens and of a memory, of which it reads the first three of the tokens'.
    """
    with torch.device("meta"):
        config = DenoiserConfig(width=256, layers=9, heads=4)
        model = MldDenoiser(config, MoeConfig(selection="dense", hidden=1024), latent=256, condition=768)
    width, hidden, layers, text = 256, 1024, 9, 768
    attention = 4 * (width * width + width)
    network = width * hidden + hidden + hidden * width + width
    norm = 2 * width
    transformer = layers * (attention + network + 2 * norm) + layers // 2 * (2 * width * width + width) + norm
    time = text * width + width + width * width + width
    expected = transformer + time + (text * width + width)
    assert expected == 8_093_184
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == expected + 3 * width
    assert found + (2 * 500 - 3) * width == 8_349_184


@pytest.mark.parametrize(
    ("sizes", "moe", "message"),
    [
        ({"width": 32}, {}, "denoiser.width = 32 (allowed: 16, the width of the latent)"),
        ({"width": 16, "layers": 8}, {}, "denoiser.layers = 8 (allowed: an odd number)"),
        (
            {"width": 16, "layers": 3},
            {"selection": "uniform"},
            (
                "moe.selection = uniform deals out the frames of a motion, of which network = mld has one"
                " (allowed: dynamic, token_choice, expert_choice, dense)"
            ),
        ),
        (
            {"width": 16, "layers": 3},
            {"pool": "sequence"},
            "moe.pool = sequence holds one token with network = mld (allowed: worker, global)",
        ),
    ],
)
def test_what_is_impossible_is_refused(sizes: dict[str, int], moe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        MldDenoiser(DenoiserConfig.parse(sizes), MoeConfig.parse(moe), latent=16, condition=CONDITION)
    assert str(raised.value) == message


def test_stored_weights_fit() -> None:
    """Also where the network is built without numbers, and none of its weights is there twice."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = MldDenoiser(SMALL, MoeConfig(hidden=HIDDEN, experts=EXPERTS), WIDTH, CONDITION)

        def parts(self) -> dict[str, nn.Module]:
            return {"denoiser": self.denoiser}

    stored = Whole().denoiser.state_dict()
    assert len({tensor.data_ptr() for tensor in stored.values()}) == len(stored)
    check_fit(Whole, {"denoiser": stored}, "here")
