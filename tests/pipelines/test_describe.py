import json
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermoe.model import InterMoE
from intermoe.text.encoders import TextStates
from pipelines import settings
from pipelines.cli import main
from pipelines.describe import as_lines, describe

TINY = """
data.max_frames=120 data.encoder=minilm vae.width=16 vae.latent=8 vae.blocks=1 vae.dropout=0 denoiser.width=128
denoiser.layers=3 denoiser.heads=4 denoiser.dropout=0 denoiser.text_layers=2 denoiser.text_hidden=2048
denoiser.text_heads=4 moe.experts=4 moe.hidden=80 train.vae.window=32 train.vae.batch_size=6
train.denoiser.batch_size=5
"""


def tiny(*overrides: str) -> settings.Settings:
    return settings.load("interhuman", settings.parse_overrides([*TINY.split(), *overrides]))


def captions(batch: int, tokens: int = 77) -> TextStates:
    states, mask = torch.randn(batch, tokens, 384), torch.ones(batch, tokens, dtype=torch.bool)
    return TextStates(states, mask, torch.full((batch,), tokens - 1))


@pytest.mark.parametrize(("experts", "table_4"), [(4, 164_692_160), (8, 240_238_784), (16, 391_332_032)])
def test_trainable_parameters_are_those_of_table_4_of_the_paper(experts, table_4):
    counts = describe(settings.load("interhuman", {"moe.experts": experts}))["parameters"]
    positional_embedding_of_clip = 77 * 768  # counted there as trainable; here CLIP is frozen and apart
    assert counts["trainable"] == table_4 - positional_embedding_of_clip
    assert counts["text_head"] == 11_029_504


def test_a_dense_model_of_the_width_of_an_expert():
    counts = describe(settings.load("interhuman", {"moe.selection": "dense"}))["parameters"]
    assert counts["trainable"] == counts["active"] == 107_960_768


@pytest.mark.parametrize(("experts", "c_exp"), [(4, 1), (8, 1), (8, 2), (16, 0.5)])
def test_active_parameters_counted_by_hand(experts, c_exp):
    found = describe(
        settings.load("interhuman", settings.parse_overrides([f"moe.experts={experts}", f"moe.c_exp={c_exp}"]))
    )
    width, latent, hidden, layers = 768, 7 * 64, 1024, 8
    square = width * width + width
    embeddings = (latent * width + width) + 2 * square + square + (width * latent + latent)
    modulation = 2 * square
    attention = 4 * square
    layer = 4 * modulation + 2 * attention + 2 * width * experts
    expert = 3 * width * hidden
    text_head = 2 * (attention + 2 * (2048 * width) + 2048 + width + 2 * 2 * width) + 2 * width
    parameters = found["parameters"]
    assert parameters["text_head"] == text_head
    assert parameters["denoiser.embeddings"] == embeddings
    assert parameters["active"] == text_head + embeddings + layers * (layer + c_exp * expert)
    assert parameters["trainable"] == text_head + embeddings + layers * (layer + experts * expert)


@pytest.mark.parametrize("values", [tiny(), settings.load("duet")], ids=["tiny", "duet"])
def test_parts_add_up_to_the_model(values):
    counts = describe(values)["parameters"]
    model = InterMoE(values)
    parts = {name: count for name, count in counts.items() if name not in ("total", "trainable", "active")}
    assert sum(parts.values()) == counts["total"] == sum(p.numel() for p in model.parameters())
    vae = sum(p.numel() for p in model.require_vae().parameters())
    assert parts["vae.encoder"] + parts["vae.decoder"] == vae == counts["total"] - counts["trainable"]


def test_intergen_has_as_many_parameters_as_published():
    counts = describe(settings.load("intergen"))["parameters"]
    assert counts["trainable"] - counts["text_head"] == 171_352_326
    # Published with CLIP's positional embedding of 77 tokens, which belongs to the frozen encoder here.
    assert counts["total"] + 77 * 768 == 182_440_966
    assert describe(settings.load("timotion"))["parameters"]["total"] == 66_273_030 + counts["text_head"]


@pytest.mark.parametrize("name", ["intergen", "timotion"])
def test_without_a_vae_nothing_is_said_of_one(name):
    found = describe(settings.load(name))
    assert [part for group in found.values() if isinstance(group, dict) for part in group if "vae" in part] == []
    assert "latent_joints" not in found["sizes"]
    assert (found["sizes"]["latent"], found["sizes"]["latent_frames"]) == (262, 300)
    assert found["sizes"]["tokens_per_batch"] == 2 * 300 * settings.load(name).train.denoiser.batch_size


@pytest.mark.parametrize("network", ["intergen", "timotion"])
def test_cost_of_a_rivals_step_against_the_operations_of_one(network):
    values = tiny(f"network={network}", "moe.selection=dense", "diffusion.error=latent")
    model = InterMoE(values).train()
    batch, frames, text = 5, 120, captions(5)
    latent = torch.randn(batch, frames, 2, 262)

    def forward() -> torch.Tensor:
        latent_mask = torch.ones(batch, frames, dtype=torch.bool)
        return model.denoiser(latent, torch.arange(batch), model.condition(text), latent_mask)

    assert describe(values)["cost"]["denoiser_step_flop"] == pytest.approx(3 * measured(forward), rel=0.01)


def test_the_papers_vae_has_a_million_parameters():
    counts = describe(settings.load("interhuman"))["parameters"]
    assert counts["vae.encoder"] + counts["vae.decoder"] == pytest.approx(1.0e6, rel=0.01)


def test_sizes():
    assert describe(settings.load("interhuman"))["sizes"] | {"weights_mb": None} == {
        "joints": 22,
        "features": 262,
        "latent_joints": 7,
        "latent": 448,
        "latent_frames": 75,
        "tokens_per_batch": 2 * 75 * 64,
        "seconds": 10.0,
        "weights_mb": None,
    }


def measured(run: Callable[[], object]) -> int:
    # The fused attention of CPUs is not among the operations that are counted; its parts are.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def test_cost_of_a_denoisers_step_against_the_operations_of_one():
    values = tiny("moe.selection=dense")
    model = InterMoE(values).train()
    batch, frames, text = 5, 120, captions(5)
    features = torch.randn(batch, frames, 2, 262)

    def encode() -> torch.Tensor:
        with torch.no_grad():
            return model.encode(features)

    def forward() -> torch.Tensor:
        latent_mask = torch.ones(batch, frames // 4, dtype=torch.bool)
        return model.denoiser(encode(), torch.arange(batch), model.condition(text), latent_mask)

    def step() -> None:
        forward().square().mean().backward()

    found = describe(values)["cost"]["denoiser_step_flop"]
    encoding = measured(encode)
    assert found == pytest.approx(3 * (measured(forward) - encoding) + encoding, rel=0.01)
    # What enters the networks needs no gradient, so that a step is a little cheaper than three forward passes.
    assert found == pytest.approx(measured(step), rel=0.05)


def test_cost_of_a_vaes_step_against_the_operations_of_one():
    values = tiny()
    model = InterMoE(values).train()
    windows = torch.randn(6, 32, 262)
    found = measured(lambda: model.vae.decode(model.vae.encode(windows).mean_BLNC).square().mean().backward())
    assert describe(values)["cost"]["vae_step_flop"] == pytest.approx(found, rel=0.05)


def test_experts_cost_as_often_as_a_token_meets_one():
    dense, one, two, more = (
        describe(tiny(*overrides))["cost"]["denoiser_step_flop"]
        for overrides in (["moe.selection=dense"], [], ["moe.c_exp=2"], ["moe.experts=8"])
    )
    samples, tokens, layers, width, hidden = 5, 5 * 2 * 30, 3, 128, 80
    router = 3 * 2 * layers * width * 4 * (tokens + samples)
    assert one - dense == router
    assert two - one == 3 * 2 * layers * tokens * 3 * width * hidden
    assert more - one == router, "twice the experts: twice the routers, and nothing else"


def test_json_holds_what_describe_gives_without_weights_or_data(capsys, monkeypatch):
    monkeypatch.setattr("intermoe.text.encoders.load_encoder", lambda *_: pytest.fail("no weights are needed"))
    monkeypatch.setattr("intermoe.model.load_encoder", lambda *_: pytest.fail("no weights are needed"))
    assert main(["describe", "--config", "interhuman", "moe.experts=4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == describe(settings.load("interhuman", {"moe.experts": 4}))
    assert set(found) == {"name", "parameters", "sizes", "cost"}


def test_lines_for_a_reader_hold_every_number(capsys):
    assert main(["describe", "--config", "interhuman"]) == 0
    printed = capsys.readouterr().out
    found = describe(settings.load("interhuman"))
    assert printed.count("\n") == len(as_lines(found)) == sum(len(found[part]) for part in found if part != "name")
    assert f"parameters trainable {'240,179,648':>34}" in printed
