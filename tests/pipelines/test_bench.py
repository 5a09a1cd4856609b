import json

import pytest
import torch

from intermoe.errors import UserError
from pipelines import settings
from pipelines.bench.moe import FORMS, bench_moe
from pipelines.cli import main

SMALL = ["denoiser.width=64", "moe.hidden=64", "moe.experts=4", "data.max_frames=80"]


def test_the_command_prints_every_form_and_counts_its_products(capsys):
    words = ["bench", "moe", "--samples", "8", "--repeats", "3", "--json", *SMALL]
    before = torch.get_num_threads()
    assert main(words) == 0
    assert torch.get_num_threads() == before
    answer = json.loads(capsys.readouterr().out)
    tokens = 2 * 8 * 20
    assert tuple(answer) == ("tokens", "device", *FORMS)
    assert (answer["tokens"], answer["device"]) == (tokens, "CPU, 1 thread, float32")
    for cost in (answer[name] for name in FORMS):
        assert cost["share_of_peak"] is None
        # The biases are calibrated: as many pairs of token and expert as the dense form has tokens.
        assert cost["tflops"] * cost["seconds"] * 1e12 == pytest.approx(3 * 2 * 3 * tokens * 64 * 64)
    # The weights' gradients are the same in both.
    assert answer["block"]["peak_mb"] < answer["scatter"]["peak_mb"]
    assert main(words[:6] + SMALL) == 0
    table = capsys.readouterr().out
    assert f"Forward + backward of {tokens} tokens on CPU" in table
    assert "dense scatter" in table


@pytest.mark.parametrize("selection", ["dense", "uniform"])
def test_what_cannot_be_compared_is_refused(selection):
    values = settings.load("interhuman", settings.parse_overrides([*SMALL, f"moe.selection={selection}"]))
    with pytest.raises(UserError, match=rf"moe.selection = '{selection}' \(allowed: 'dynamic'\)"):
        bench_moe(values, samples=1, repeats=1, threads=1, progress=lambda *_: None)


@pytest.mark.slow
def test_the_block_is_about_as_fast_as_the_dense_one_and_far_smaller_than_a_scattering_one():
    """On an idle machine at most 1.15 x the time; a test may share it."""
    costs = bench_moe(settings.load("interhuman"), samples=24, repeats=7, threads=1, progress=lambda *_: None)
    assert costs["block"].peak_mb <= 0.5 * costs["scatter"].peak_mb
    assert costs["block"].seconds <= 1.4 * costs["dense"].seconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small model with an evaluator and data; nothing has learned anything."""
    root = tmp_path_factory.mktemp("trained")
    model = small_model(data={"max_frames": 40})
    write_shards(root / "data", {"test": 4})
    config = settings.load("duet", flatten(model.config.model_dump(mode="json")))
    save_model(root / "model", model, config)
    save_model(root / "evaluator", small_evaluator(model))
    return root


def test_samplers_of_initial_weights_are_timed(capsys):
    words = ["bench", "sampling", "--samples", "1", "--repeats", "1", "--json", *SMALL, "denoiser.layers=1"]
    assert main([*words, "diffusion.steps=30"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["samples"], answer["frames"], answer["guidance"]) == (1, 80, 3.5)
    # Of 30 steps, 50 cannot be visited, nor 20 that are evenly spaced.
    forms = [(cost["sampler"], cost["steps"]) for cost in answer["samplers"]]
    assert forms == [("ddim", 10), ("dpm++", 20), ("dpm++", 10), ("dpm++", 8), ("dpm++", 5)]
    for cost in answer["samplers"]:
        assert cost["seconds"] > 0
        assert 0 < cost["share_of_peak"] < 1
        assert (cost["latent_error"], cost["joint_error_cm"], cost["quality"]) == (None, None, {})
