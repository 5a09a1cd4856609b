"""InterGen and TIMotion against plain written-out forms, and what padding, company and order must not change.

Legend: B batch, L frames, P = 2 persons, Z numbers of a person-frame, W condition width.
"""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermoe.moe.config import MoeConfig
from intermoe.moe.selection import selections
from intermoe.networks.by_name import NetworkName, layers_of
from intermoe.networks.denoiser import Denoiser, DenoiserConfig
from intermoe.networks.timotion import TimotionConfig, TimotionLayer

WIDTH, HEADS, HIDDEN, LATENT, CONDITION = 16, 4, 24, 10, 12
SMALL = DenoiserConfig(width=WIDTH, layers=3, heads=HEADS, dropout=0.0)
NETWORKS = ["intergen", "timotion", "timotion without patterns"]
Weights = dict[str, Tensor]


def network(name: str, seed: int = 0, **moe: object) -> Denoiser:
    """A small network whose zero-initialised layers are random, so that everything reaches the output."""
    torch.manual_seed(seed)
    config = MoeConfig.parse({"selection": "dense", "experts": 4, "hidden": HIDDEN, **moe})
    kind: NetworkName = "intergen" if name == "intergen" else "timotion"
    timotion = TimotionConfig(local_patterns=name == "timotion")
    model = Denoiser(SMALL, config, LATENT, CONDITION, make_layers=lambda: layers_of(kind, SMALL, config, timotion))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def inputs(batch: int = 3, length: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    mask_BL = torch.arange(length) < torch.tensor([length, 5, 2])[:batch, None]
    x_BLPZ = torch.randn(batch, length, 2, LATENT, generator=rng)
    condition_BW = torch.randn(batch, CONDITION, generator=rng)
    return x_BLPZ, torch.tensor([0, 500, 980])[:batch], condition_BW, mask_BL


# --- plain forms: one sample, one person, one head at a time, from the same weights -----------------------------------


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    scale, shift = linear(weights, f"{name}.modulation", F.silu(emb)).chunk(2)
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift


def attention(weights: Weights, name: str, x: Tensor, context: Tensor) -> Tensor:
    """Each query over all keys and one of zeros, whose value is zero."""
    query, both = linear(weights, f"{name}.query", x), linear(weights, f"{name}.key_value", context)
    key, value = both.chunk(2, dim=-1)
    size = x.shape[-1] // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        exp = scores.exp()
        heads.append(exp @ value[:, part] / (exp.sum(-1, keepdim=True) + 1))
    return linear(weights, f"{name}.out", torch.cat(heads, dim=-1))


def feed_forward(weights: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    hidden = linear(weights, f"{name}.network.inward", norm(weights, f"{name}.norm", x, emb))
    return linear(weights, f"{name}.network.outward", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def intergen_layer(weights: Weights, name: str, own: Tensor, partner: Tensor, emb: Tensor) -> Tensor:
    asked = norm(weights, f"{name}.self_norm", own, emb)
    h = own + attention(weights, f"{name}.self_attention", asked, asked)
    other = norm(weights, f"{name}.partner_norm", partner, emb)
    h = h + attention(weights, f"{name}.cross_attention", norm(weights, f"{name}.cross_norm", h, emb), other)
    return h + feed_forward(weights, f"{name}.feed_forward", h, emb)


def timotion_layer(
    weights: Weights, name: str, a: Tensor, b: Tensor, emb: Tensor, *, is_first: bool
) -> tuple[Tensor, Tensor]:
    sequence = torch.stack(
        [torch.cat(pair) for one, other in zip(a, b, strict=True) for pair in ((one, other), (other, one))]
    )
    asked = norm(weights, f"{name}.norm", sequence, emb)
    h = sequence + attention(weights, f"{name}.attention", asked, asked)
    if f"{name}.merge.weight" in weights:
        merged = [
            linear(
                weights, f"{name}.merge", torch.cat([person, patterns(weights, f"{name}.local", x, emb, is_first)], -1)
            )
            for person, x in zip(halves(h), (a, b), strict=True)
        ]
        h = torch.stack(
            [torch.cat(pair) for one, other in zip(*merged, strict=True) for pair in ((one, other), (other, one))]
        )
    return halves(h + feed_forward(weights, f"{name}.feed_forward", h, emb))


def halves(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Each person's half of the even tokens plus that of the odd ones."""
    width = sequence.shape[-1] // 2
    even, odd = sequence[::2], sequence[1::2]
    return even[:, :width] + odd[:, width:], even[:, width:] + odd[:, :width]


def patterns(weights: Weights, name: str, x: Tensor, emb: Tensor, is_first: bool) -> Tensor:
    seen = x if is_first else F.silu(norm(weights, f"{name}.first_norm", x, emb))
    kernel, bias = weights[f"{name}.over_time.weight"], weights[f"{name}.over_time.bias"]
    zero = torch.zeros(WIDTH, dtype=x.dtype)
    frames = [zero, *seen, zero]
    over_time = torch.stack(
        [
            bias + kernel[:, :, 0] @ before + kernel[:, :, 1] @ now + kernel[:, :, 2] @ after
            for before, now, after in zip(frames[:-2], frames[1:-1], frames[2:], strict=True)
        ]
    )
    return x + linear(weights, f"{name}.out", F.silu(norm(weights, f"{name}.second_norm", over_time, emb)))


def plain(name: str, weights: Weights, x: Tensor, t: int, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Both persons of one sample without padding, [L, Z] each."""

    def place(number: float) -> Tensor:
        angles = [number * 10000.0 ** (-2 * pair / WIDTH) for pair in range(WIDTH // 2)]
        return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)]).double()

    time = linear(weights, "embed_timestep.network.2", F.silu(linear(weights, "embed_timestep.network.0", place(t))))
    emb = time + linear(weights, "embed_text", condition)
    places = torch.stack([place(frame) for frame in range(len(x))])
    a, b = (linear(weights, "embed_motion", x[:, person]) + places for person in (0, 1))
    for number in range(3):
        layer = f"layers.{number}"
        if name == "intergen":
            a, b = intergen_layer(weights, layer, a, b, emb), intergen_layer(weights, layer, b, a, emb)
        else:
            a, b = timotion_layer(weights, layer, a, b, emb, is_first=number == 0)
    return linear(weights, "out", a), linear(weights, "out", b)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_those_of_a_plain_form(name: str) -> None:
    model = network(name)
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    found = model(x_BLPZ, t_B, condition_BW, mask_BL)
    (found * mask_BL[..., None, None]).square().sum().backward()
    weights = {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for row, frames in enumerate(mask_BL.sum(dim=1).tolist()):
        a, b = plain(name, weights, x_BLPZ[row, :frames].double(), int(t_B[row]), condition_BW[row].double())
        torch.testing.assert_close(found[row, :frames].double(), torch.stack([a, b], dim=1), atol=2e-5, rtol=0)
        assert not found[row, frames:].any()
        total = total + a.square().sum() + b.square().sum()
    total.backward()
    for key, parameter in model.named_parameters():
        expected = weights[key].grad
        assert expected is not None
        off = (parameter.grad - expected).abs().max() / expected.abs().max()
        assert off < 1e-4, key


# --- what must not change it -----------------------------------------------------------------------------------------


@pytest.fixture(params=[(name, selection) for name in NETWORKS for selection in ("dense", "dynamic")], ids=str)
def model(request: pytest.FixtureRequest) -> Denoiser:
    name, selection = request.param
    return network(name, selection=selection)


@torch.no_grad()
def test_padding_and_company_change_nothing(model: Denoiser) -> None:
    x_BLPZ, t_B, condition_BW, mask_BL = inputs()
    together = model(x_BLPZ, t_B, condition_BW, mask_BL)
    other = model(x_BLPZ.where(mask_BL[..., None, None], 7.0), t_B, condition_BW, mask_BL)
    torch.testing.assert_close(other, together, atol=1e-5, rtol=0)
    for row, frames in enumerate(mask_BL.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone = model(x_BLPZ[one, :frames], t_B[one], condition_BW[one], mask_BL[one, :frames])
        torch.testing.assert_close(alone[0], together[row, :frames], atol=1e-5, rtol=0)


@torch.no_grad()
def test_persons_in_each_others_place_give_the_same_in_each_others_place(model: Denoiser) -> None:
    x_BLPZ, *rest = inputs()
    torch.testing.assert_close(model(x_BLPZ.flip(2), *rest).flip(2), model(x_BLPZ, *rest), atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_person_sees_the_other(model: Denoiser) -> None:
    x_BLPZ, *rest = inputs()
    moved_BLPZ = x_BLPZ.clone()
    moved_BLPZ[:, :, 1] += 1
    assert (model(moved_BLPZ, *rest) - model(x_BLPZ, *rest))[0, :, 0].abs().min() > 1e-6


def test_a_host_that_runs_ahead_computes_the_same(model: Denoiser) -> None:
    given = inputs()
    expected = model(*given)
    expected.square().sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    model.run_ahead(True)
    found = model(*given)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-4, rtol=1e-4, msg=key)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_some_tokens_have_experts_and_some_have_none(name: str) -> None:
    model = network(name, selection="dynamic")
    seen: list[Tensor] = []
    for layer in selections(model):
        layer.register_forward_hook(lambda _layer, given, found: seen.append(found.gates(2 * given[1].shape[1] * 9)))
    model(*inputs())
    assert len(seen) == 3
    for gates_NE in seen:
        assert 0 < int((gates_NE > 0).any(dim=1).sum()) <= 2 * (9 + 5 + 2)


def test_dropout_rises_over_the_layers_of_timotion() -> None:
    config = DenoiserConfig(width=16, layers=5, heads=4, dropout=0.1)
    layers = layers_of("timotion", config, MoeConfig(selection="dense"), TimotionConfig())
    found = [layer.attention.dropout for layer in layers if isinstance(layer, TimotionLayer)]
    assert found == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("kind", "sizes", "patterns", "parameters"),
    [
        ("intergen", {"width": 1024}, True, 171_352_326),
        ("timotion", {"width": 512, "layers": 5, "heads": 16}, True, 66_273_030),
        ("timotion", {"width": 512, "layers": 5, "heads": 16}, False, 53_673_222),
    ],
)
def test_parameters_are_as_many_as_those_of_the_published_layers(
    kind: NetworkName, sizes: dict[str, int], patterns: bool, parameters: int
) -> None:
    """TIMotion's were counted from its code; InterGen's are published (see test_describe.py)."""
    config, moe = DenoiserConfig.parse(sizes), MoeConfig(selection="dense", hidden=2048)
    make_layers = partial(layers_of, kind, config, moe, TimotionConfig(local_patterns=patterns))
    with torch.device("meta"):
        model = Denoiser(config, moe, latent=262, condition=768, make_layers=make_layers)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
