"""MDM's denoiser against a plain written-out form, and what padding and company must not change.

Legend: B batch, L frames, P = 1 person, Z numbers of a person-frame, W condition width.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from intermoe.layers.precision import products_in
from intermoe.moe.block import DenseBlock, MoeBlock
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, selections, update_biases
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.mdm import MdmDenoiser, MdmLayer

WIDTH, HEADS, HIDDEN, LAYERS, LATENT, CONDITION, EXPERTS = 16, 4, 24, 3, 10, 12, 4
KINDS = [
    {"selection": "dense"},
    {"selection": "dynamic"},
    {"selection": "dynamic", "router": "text"},
    {"selection": "dynamic", "timestep_in_router": True},
]
Weights = dict[str, Tensor]


def network(dropout: float = 0.0, **moe: object) -> MdmDenoiser:
    """A small network whose biases and norms are random, with routing that is uneven."""
    torch.manual_seed(0)
    config = DenoiserConfig(width=WIDTH, layers=LAYERS, heads=HEADS, dropout=dropout)
    model = MdmDenoiser(config, MoeConfig.parse({"experts": EXPERTS, "hidden": HIDDEN, **moe}), LATENT, CONDITION)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        elif "router" in name:
            nn.init.normal_(parameter, std=0.5)
    for layer in selections(model):
        layer.learned_E.copy_(torch.linspace(-0.5, -0.8, EXPERTS))
    return model.eval()


def inputs(length: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four samples, three of them padded; one of them has a dropped condition, and one no frame."""
    rng = torch.Generator().manual_seed(1)
    mask_BL = torch.arange(length) < torch.tensor([length, 5, 2, 0])[:, None]
    x_BLPZ, condition_BW = torch.randn(4, length, 1, LATENT, generator=rng), torch.randn(4, CONDITION, generator=rng)
    condition_BW[1] = 0
    return x_BLPZ, torch.tensor([0, 500, 980, 3]), condition_BW, mask_BL


# --- the plain form: one sample, one head, one token at a time, from the same weights ---------------------------------


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normalised = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normalised * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(weights: Weights, name: str, x: Tensor) -> Tensor:
    query, key, value = (x @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]).chunk(3, dim=-1)
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        exp = (query[:, part] @ key[:, part].T / math.sqrt(size)).exp()
        heads.append(exp @ value[:, part] / exp.sum(-1, keepdim=True))
    return linear(weights, f"{name}.out_proj", torch.cat(heads, dim=-1))


def feed_forward(weights: Weights, name: str, x: Tensor) -> Tensor:
    hidden = linear(weights, f"{name}.network.inward", x)
    return linear(weights, f"{name}.network.outward", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def experts(weights: Weights, name: str, x: Tensor, text: Tensor) -> Tensor:
    """The condition token comes first and gets nothing; each of the others what experts with a positive score say."""
    rows = [torch.zeros_like(x[0])]
    for token in x[1:]:
        logits = weights[f"{name}.router.text.weight"] @ text
        if f"{name}.router.motion.weight" in weights:
            logits = 0.5 * (weights[f"{name}.router.motion.weight"] @ token) + 0.5 * logits
        gates = logits.exp() / logits.exp().sum()
        row = torch.zeros_like(token)
        for expert in range(EXPERTS):
            if 1 / (1 + (-logits[expert]).exp()) + weights[f"{name}.selection.bias_E"][expert] > 0:
                gate, up = (token @ weights[f"{name}.experts.inward_EDH"][expert]).chunk(2)
                active = gate / (1 + (-gate).exp()) * up
                row = row + gates[expert] * (active @ weights[f"{name}.experts.outward_EHD"][expert])
        rows.append(row)
    return torch.stack(rows)


def place(number: float) -> Tensor:
    angles = [number * 10000.0 ** (-2 * pair / WIDTH) for pair in range(WIDTH // 2)]
    return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)]).double()


def plain(weights: Weights, x: Tensor, t: int, condition: Tensor, *, timestep_in_router: bool) -> Tensor:
    """One sample without padding, [L, Z]."""
    hidden = linear(weights, "embed_timestep.network.0", place(t))
    text = linear(weights, "embed_text", condition)
    emb = linear(weights, "embed_timestep.network.2", hidden / (1 + (-hidden).exp())) + text
    h = torch.cat([emb[None], linear(weights, "embed_motion", x)])
    h = h + torch.stack([place(number) for number in range(len(h))])
    for number in range(LAYERS):
        layer = f"layers.{number}"
        h = norm(weights, f"{layer}.self_norm", h + attention(weights, f"{layer}.self_attention", h))
        if f"{layer}.feed_forward.network.inward.weight" in weights:
            fed = feed_forward(weights, f"{layer}.feed_forward", h)
        else:
            fed = experts(weights, f"{layer}.feed_forward", h, emb if timestep_in_router else text)
        h = norm(weights, f"{layer}.feed_forward_norm", h + fed)
    return linear(weights, "out", h[1:])


@pytest.fixture(params=KINDS, ids=lambda moe: "-".join(map(str, moe.values())))
def model(request: pytest.FixtureRequest) -> MdmDenoiser:
    return network(**request.param)


def test_values_and_gradients_are_those_of_a_plain_form(model: MdmDenoiser) -> None:
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    x_BLPZ.requires_grad_()
    condition_BW.requires_grad_()
    found_BLPZ, contacts = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    assert contacts is None
    weight = torch.randn(found_BLPZ.shape, generator=torch.Generator().manual_seed(2))
    leaves = {**dict(model.named_parameters()), "x": x_BLPZ, "condition": condition_BW}
    gradients = torch.autograd.grad((found_BLPZ * weight).sum(), list(leaves.values()))
    precise = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    weights = precise | {name: buffer.double() for name, buffer in model.named_buffers()}
    total = torch.zeros((), dtype=torch.float64)
    for row, frames in enumerate(mask_BL.sum(dim=1).tolist()):
        expected = plain(
            weights,
            precise["x"][row, :frames, 0],
            int(t_B[row]),
            precise["condition"][row],
            timestep_in_router=model.timestep_in_router,
        )
        torch.testing.assert_close(found_BLPZ[row, :frames, 0].double(), expected, atol=1e-5, rtol=0)
        assert not found_BLPZ[row, frames:].any()
        total = total + (expected * weight[row, :frames, 0]).sum()
    total.backward()
    for (name, leaf), gradient in zip(precise.items(), gradients, strict=True):
        assert leaf.grad is not None
        assert leaf.grad.any(), name
        torch.testing.assert_close(gradient.double(), leaf.grad, atol=2e-5 * float(leaf.grad.abs().max()), rtol=0)


# --- what must not change it -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_and_company_change_nothing(model: MdmDenoiser) -> None:
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    together, _ = model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    assert not together.where(mask_BL[..., None, None], 0).ne(together).any()
    beyond, _ = model.predict(x_BLPZ.where(mask_BL[..., None, None], 7.0), t_B, condition_BW, mask_BL)
    torch.testing.assert_close(beyond, together, atol=1e-5, rtol=0)
    for row, frames in enumerate(mask_BL.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone, _ = model.predict(x_BLPZ[one, :frames], t_B[one], condition_BW[one], mask_BL[one, :frames])
        torch.testing.assert_close(alone[0], together[row, :frames], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_host_that_fixes_the_rows_and_knows_the_pool_computes_the_same(model: MdmDenoiser) -> None:
    given = inputs()
    expected, _ = model.predict(*given)
    for layer in selections(model):
        layer.has_fixed_rows = True
    pool = TokenPool.of_lengths([9, 5, 2, 0], num_frames=9, num_persons=model.num_token_rows)
    found, _ = model.predict(*given, pool)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_bf16_products_give_about_the_same(model: MdmDenoiser) -> None:
    given = inputs()
    expected, _ = model.predict(*given)
    with products_in("bf16", torch.device("cpu")):
        found, _ = model.predict(*given)
    assert found.dtype == torch.float32
    # A frame that goes to other experts because of rounding is far off; most are not.
    off_BL = (found - expected).abs().amax(dim=(2, 3))[given[3]]
    assert off_BL.median() < 0.05
    found.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- experts ---------------------------------------------------------------------------------------------------------


def test_valid_frames_alone_are_routed() -> None:
    model = network(selection="dynamic").train()
    seen: list[Assignment] = []
    for layer in selections(model):
        layer.register_forward_hook(lambda _layer, _given, found: seen.append(found))
    given = inputs()
    mask_BL = given[3]
    model.predict(*given)
    assert len(seen) == LAYERS
    for assignment, layer in zip(seen, selections(model), strict=True):
        # Positions are those of the frames: the condition token has none.
        assert set(assignment.token_A.tolist()) <= set(mask_BL.flatten().nonzero().squeeze(1).tolist())
        assert layer.valid == mask_BL.sum()
        assert layer.selected_E.sum() == len(assignment.token_A)
    # Some of them have experts and some have none.
    assert 0 < sum(int(layer.unselected) for layer in selections(model)) < LAYERS * mask_BL.sum()
    before = [layer.learned_E.clone() for layer in selections(model)]
    update_biases(model)
    assert all((layer.learned_E != b).any() for layer, b in zip(selections(model), before, strict=True))


def test_experts_stand_in_the_place_of_the_network() -> None:
    dense, routed = network(selection="dense"), network(selection="dynamic")
    assert all(isinstance(layer.feed_forward, DenseBlock) for layer in dense.layers)
    assert all(isinstance(layer.feed_forward, MoeBlock) for layer in routed.layers)
    others = [{name for name in m.state_dict() if "feed_forward." not in name} for m in (dense, routed)]
    assert others[0] == others[1]
    assert (routed.token_names, routed.num_token_rows) == (("person",), 1)


# --- the published network -------------------------------------------------------------------------------------------


def test_there_are_as_many_parameters_as_published() -> None:
    width, hidden, features, text = 512, 1024, 263, 512
    config = DenoiserConfig(width=width, layers=8, heads=4)
    with torch.device("meta"):
        model = MdmDenoiser(config, MoeConfig(selection="dense", hidden=hidden), features, text)
    attention = 4 * (width * width + width)
    network = width * hidden + hidden + hidden * width + width
    layer = attention + network + 2 * 2 * width
    condition = 2 * (width * width + width) + text * width + width
    around = features * width + width + width * features + features
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == 8 * layer + condition + around == 17_880_327


def test_dropout_stands_where_the_published_network_has_it() -> None:
    model = network(dropout=0.1, selection="dense").train()
    seen: dict[nn.Module, list[Tensor]] = {}
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    for dropout in dropouts:
        dropout.register_forward_hook(lambda module, given, _: seen.setdefault(module, []).append(given[0]))
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    model.predict(x_BLPZ, t_B, condition_BW, mask_BL)
    assert {dropout.p for dropout in dropouts} | {layer.self_attention.dropout for layer in model.layers} == {0.1}
    # Of the tokens with their positions; of what attention and network add; within the network.
    emb_BD = model.embed_timestep(t_B) + model.embed_text(condition_BW)
    places = torch.stack([place(number) for number in range(10)]).float()
    tokens = torch.cat([emb_BD[:, None], model.embed_motion(x_BLPZ[:, :, 0])], dim=1) + places
    torch.testing.assert_close(seen[model.dropout], [tokens], atol=1e-5, rtol=0)
    for layer in model.layers:
        assert isinstance(layer, MdmLayer)
        assert isinstance(layer.feed_forward, DenseBlock)
        assert [given.shape for given in seen[layer.dropout]] == 2 * [(4, 10, WIDTH)]
        assert [given.shape for given in seen[layer.feed_forward.network.get_submodule("dropout")]] == [
            (1, 4, 10, HIDDEN)
        ]


def test_weights_start_as_those_of_torch() -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(width=64, layers=2, heads=4)
    model = MdmDenoiser(config, MoeConfig(selection="dense", hidden=96), 30, 20)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert (weight == float(name.endswith("weight"))).all()
        elif name.endswith(("in_proj_bias", "out_proj.bias")):
            assert not weight.any()
        elif name.endswith("in_proj_weight"):
            assert weight.detach().abs().max().item() == pytest.approx((6 / (4 * 64)) ** 0.5, rel=0.01)
        elif weight.ndim == 2:
            assert weight.detach().abs().max().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.01)
