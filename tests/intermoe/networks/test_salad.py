"""SALAD's denoiser against a plain written-out form, and what padding and company must not change.

Legend: B batch, L latent frames, P = 1 person, Z = J * C numbers of a latent frame, J latent joints, C channels,
K tokens of a text, W width of a token state, D width.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermoe.body.skeletons import HUMANML22
from intermoe.moe.block import MoeBlock
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import selections
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.salad import SaladDenoiser

WIDTH, HEADS, HIDDEN, CHANNELS, STATE = 16, 4, 24, 5, 12
JOINTS = ("root", "legs", "arms")
SMALL = DenoiserConfig(width=WIDTH, layers=5, heads=HEADS, dropout=0.0)
Weights = dict[str, Tensor]
EXPERTS = [{"selection": "dynamic"}, {"selection": "token_choice"}, {"selection": "uniform"}]


def network(config: DenoiserConfig = SMALL, **moe: object) -> SaladDenoiser:
    torch.manual_seed(0)
    settings = MoeConfig.parse({"selection": "dense", "experts": 4, "hidden": HIDDEN, **moe})
    return SaladDenoiser(config, settings, len(JOINTS) * CHANNELS, STATE, JOINTS).eval()


def inputs(length: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three motions, two of them padded; texts of four tokens, of two, and a dropped one."""
    rng = torch.Generator().manual_seed(1)
    mask_BL = torch.arange(length) < torch.tensor([length, 4, 2])[:, None]
    has_word_BK = torch.arange(4) < torch.tensor([4, 2, 0])[:, None]
    x_BLPZ = torch.randn(3, length, 1, len(JOINTS) * CHANNELS, generator=rng)
    condition_BKW = torch.randn(3, 4, STATE, generator=rng) * has_word_BK[..., None]
    return x_BLPZ, torch.tensor([0, 500, 980]), condition_BKW, mask_BL


# --- the plain form: one sample, one head, one query at a time, from the same weights ---------------------------------


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def modulated(weights: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    scale, shift = linear(weights, f"{name}.modulation", F.silu(emb)).chunk(2)
    return x * (1 + scale) + shift


def attention(weights: Weights, name: str, x: Tensor, context: Tensor) -> Tensor:
    """Each query of x [..., D] over the keys [K, D]; a sum over no keys is zero."""
    query, both = linear(weights, f"{name}.query", x), linear(weights, f"{name}.key_value", context)
    key, value = both.chunk(2, dim=-1)
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        total, mixed = torch.zeros(len(x), 1).double(), torch.zeros(len(x), size).double()
        for one, carried in zip(key[:, part], value[:, part], strict=True):
            weight = (query[:, part] @ one / math.sqrt(size)).exp()[:, None]
            total, mixed = total + weight, mixed + weight * carried
        heads.append(mixed / total if len(context) else mixed)
    return linear(weights, f"{name}.out", torch.cat(heads, dim=-1))


def plain_layer(weights: Weights, name: str, x: Tensor, emb: Tensor, words: Tensor) -> Tensor:
    """x [L, J, D] after the layer; words [K, D]."""
    seen = norm(weights, f"{name}.temporal_norm", x)
    mixed = [attention(weights, f"{name}.temporal", seen[:, j], seen[:, j]) for j in range(len(JOINTS))]
    x = x + modulated(weights, f"{name}.temporal_film", torch.stack(mixed, dim=1), emb)
    seen = norm(weights, f"{name}.skeletal_norm", x)
    mixed = [attention(weights, f"{name}.skeletal", seen[frame], seen[frame]) for frame in range(len(x))]
    x = x + modulated(weights, f"{name}.skeletal_film", torch.stack(mixed), emb)
    seen, read = norm(weights, f"{name}.cross_norm", x), norm(weights, f"{name}.words_norm", words)
    mixed = [attention(weights, f"{name}.cross", seen[frame], read) for frame in range(len(x))]
    x = x + modulated(weights, f"{name}.cross_film", torch.stack(mixed), emb)
    hidden = linear(weights, f"{name}.feed_forward.network.0", norm(weights, f"{name}.feed_forward.norm", x))
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + modulated(weights, f"{name}.fed_film", linear(weights, f"{name}.feed_forward.network.2", hidden), emb)


def place(number: float) -> Tensor:
    angles = [number * 10000.0 ** (-2 * pair / WIDTH) for pair in range(WIDTH // 2)]
    return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)]).double()


def plain(weights: Weights, x: Tensor, t: int, states: Tensor) -> Tensor:
    """One motion [L, J * C] without padding, under the states of its tokens [K, W]."""
    emb = linear(weights, "embed_timestep.network.2", F.silu(linear(weights, "embed_timestep.network.0", place(t))))
    words = linear(weights, "embed_words", states)
    tokens = x.unflatten(1, (len(JOINTS), CHANNELS))
    tokens = linear(weights, "embed_motion.2", F.relu(linear(weights, "embed_motion.0", tokens)))
    places = [place(number) for number in range(len(x) * len(JOINTS))]
    tokens = tokens + torch.stack(places).unflatten(0, (len(x), len(JOINTS)))
    first = plain_layer(weights, "layers.0", tokens, emb, words)
    second = plain_layer(weights, "layers.1", first, emb, words)
    middle = plain_layer(weights, "layers.2", second, emb, words)
    fourth = linear(weights, "joins.0", torch.cat([middle, second], dim=-1))
    fourth = plain_layer(weights, "layers.3", fourth, emb, words)
    fifth = linear(weights, "joins.1", torch.cat([fourth, first], dim=-1))
    fifth = plain_layer(weights, "layers.4", fifth, emb, words)
    out = F.relu(linear(weights, "out.1", norm(weights, "out.0", fifth)))
    return linear(weights, "out.3", out).flatten(1)


def test_values_and_gradients_are_those_of_a_plain_form() -> None:
    model = network()
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    found, hands = model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
    assert hands is None
    assert found.shape == x_BLPZ.shape
    found.square().sum().backward()
    weights = {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for row, (frames, words) in enumerate([(6, 4), (4, 2), (2, 0)]):
        x, states = x_BLPZ[row, :frames, 0].double(), condition_BKW[row, :words].double()
        expected = plain(weights, x, int(t_B[row]), states)
        torch.testing.assert_close(found[row, :frames, 0].double(), expected, atol=2e-5, rtol=0)
        assert not found[row, frames:].any()
        total = total + expected.square().sum()
    total.backward()
    for key, parameter in model.named_parameters():
        gradient = weights[key].grad
        assert gradient is not None
        assert parameter.grad is not None
        # A key's bias adds the same to all scores of a query, so its gradient is zero but for rounding.
        scale = gradient.abs().max().clamp(min=1e-2)
        assert (parameter.grad - gradient).abs().max() / scale < 1e-4, key


def test_the_published_size_is_that_of_a_closed_form() -> None:
    names = HUMANML22.pools[-1].names
    assert names == ("root", "left leg", "right leg", "spine", "left arm", "right arm", "head")
    config = DenoiserConfig(width=256, layers=5, heads=8, dropout=0.1)
    model = SaladDenoiser(config, MoeConfig(selection="dense", hidden=1024), 7 * 32, 512, names)

    def affine(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    attentions, norms, films = 3 * 4 * affine(256, 256), 5 * 2 * 256, 4 * affine(256, 512)
    layer = attentions + norms + films + affine(256, 1024) + affine(1024, 256)
    ends = affine(32, 256) + affine(256, 256) + 2 * 256 + affine(256, 256) + affine(256, 32)
    expected = 5 * layer + 2 * affine(512, 256) + ends + 2 * affine(256, 256) + affine(512, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected == 9_894_176


def test_an_even_number_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="4 layers have none in the middle; SALAD takes an odd number of them"):
        network(SMALL.model_copy(update={"layers": 4}))


def test_dropout_is_of_training_alone() -> None:
    model = network(SMALL.model_copy(update={"dropout": 0.5}))
    given = inputs()
    torch.testing.assert_close(model.predict(*given)[0], network().predict(*given)[0], atol=0, rtol=0)
    model.train()
    assert not torch.equal(model.predict(*given)[0], model.predict(*given)[0])


@torch.no_grad()
def test_under_autocast_the_residual_stream_keeps_its_precision() -> None:
    model = network(selection="dynamic", bias_init=-0.3)
    dtypes = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, _given, made: dtypes.append(made.dtype))
    given = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = model.predict(*given)
    assert dtypes == [torch.float32] * 5
    assert rounded.dtype == torch.float32
    assert (rounded - model.predict(*given)[0]).abs().mean() < 0.02


# --- what must not change it ------------------------------------------------------------------------------------------


@pytest.fixture(params=[{"selection": "dense"}, *EXPERTS], ids=lambda moe: moe["selection"])
def model(request: pytest.FixtureRequest) -> SaladDenoiser:
    made = network(**request.param)
    for layer in made.layers:
        if isinstance(layer.feed_forward, MoeBlock):
            nn.init.normal_(layer.feed_forward.router.motion.weight, std=0.6)
    return made


@torch.no_grad()
def test_padding_and_company_change_nothing(model: SaladDenoiser) -> None:
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    together, _ = model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
    assert together[mask_BL].isfinite().all()
    # A text has as many places as the longest of its company.
    for row, (frames, words) in enumerate([(6, 4), (4, 2), (2, 1)]):
        one = slice(row, row + 1)
        alone, _ = model.predict(x_BLPZ[one, :frames], t_B[one], condition_BKW[one, :words], mask_BL[one, :frames])
        torch.testing.assert_close(together[one, :frames], alone, atol=1e-5, rtol=0)
    noise_BLPZ = torch.randn_like(x_BLPZ)
    other, _ = model.predict(x_BLPZ.where(mask_BL[..., None, None], noise_BLPZ), t_B, condition_BKW, mask_BL)
    torch.testing.assert_close(other, together, atol=1e-6, rtol=0)
    longer, _ = model.predict(
        F.pad(x_BLPZ, (0, 0, 0, 0, 0, 3)), t_B, F.pad(condition_BKW, (0, 0, 0, 5)), F.pad(mask_BL, (0, 3))
    )
    torch.testing.assert_close(longer[:, :6], together, atol=1e-5, rtol=0)
    assert not longer[:, 6:].any()


@torch.no_grad()
def test_motions_of_nothing_but_padding_are_zeros(model: SaladDenoiser) -> None:
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    mask_BL[1] = False
    found, _ = model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
    assert found.isfinite().all()
    assert not found[1].any()


@torch.no_grad()
def test_words_count_in_any_order_and_joints_and_frames_in_theirs(model: SaladDenoiser) -> None:
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    found, _ = model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
    turned, _ = model.predict(x_BLPZ, t_B, condition_BKW.flip(1), mask_BL)
    torch.testing.assert_close(turned, found, atol=1e-5, rtol=0)
    for changed in (condition_BKW * 2, condition_BKW * 0):
        assert (model.predict(x_BLPZ, t_B, changed, mask_BL)[0] - found)[:2].abs().max() > 1e-3
    assert (model.predict(x_BLPZ, t_B + 9, condition_BKW, mask_BL)[0] - found).abs().amax((1, 2, 3)).min() > 1e-4


# --- experts ----------------------------------------------------------------------------------------------------------


def test_with_experts_all_learn_from_joint_frames_and_texts() -> None:
    model = network(selection="dynamic", bias_init=-0.3)
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    pool = TokenPool.of(mask_BL, model.num_token_rows)
    assert len(pool.position_S) == 3 * (6 + 4 + 2)
    torch.testing.assert_close(model.pool(mask_BL).position_S, pool.position_S)
    found, _ = model.predict(x_BLPZ, t_B, condition_BKW, mask_BL, pool)
    torch.testing.assert_close(found, model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)[0], atol=0, rtol=0)
    found.square().sum().backward()
    assert len(selections(model)) == 5
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@torch.no_grad()
def test_the_router_reads_the_mean_of_the_words_and_the_timestep_if_it_is_to() -> None:
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    for timestep in (False, True):
        model = network(selection="dynamic", timestep_in_router=timestep)
        read: list[Tensor] = []
        router = model.layers[0].feed_forward.router
        router.register_forward_pre_hook(lambda _, given, read=read: read.append(given[1]))
        model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
        rows = [condition_BKW[0].mean(0), condition_BKW[1, :2].mean(0), torch.zeros(STATE)]
        expected = model.embed_words(torch.stack(rows))
        if timestep:
            expected = expected + model.embed_timestep(t_B)
        torch.testing.assert_close(read[0], expected)


@torch.no_grad()
def test_a_layer_adds_what_its_experts_make_modulated_by_the_timestep() -> None:
    model = network(selection="dynamic", bias_init=-0.3)
    layer = model.layers[2]
    seen: list[tuple[Tensor, Tensor]] = []
    layer.feed_forward.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    kept: list[Tensor] = []
    layer.register_forward_hook(lambda _, _given, made: kept.append(made))
    x_BLPZ, t_B, condition_BKW, mask_BL = inputs()
    model.predict(x_BLPZ, t_B, condition_BKW, mask_BL)
    (x_JBLD, fed_JBLD), emb_BD = seen[0], model.embed_timestep(t_B)
    assert fed_JBLD[:, mask_BL].any()
    assert not fed_JBLD[:, ~mask_BL].any()
    for row in range(3):
        scale, shift = layer.fed_film.modulation(F.silu(emb_BD[row])).chunk(2)
        expected = x_JBLD[:, row] + fed_JBLD[:, row] * (1 + scale) + shift
        torch.testing.assert_close(kept[0][:, row], expected)
