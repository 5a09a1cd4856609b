import json

import pytest
import torch

from intermoe.errors import UserError
from intermoe.moe.block import MoeBlock, MoeConfig
from intermoe.moe.pool import TokenPool
from pipelines import settings
from pipelines.bench import FORMS, ScatteringExperts, bench_moe
from pipelines.cli import main

SMALL = ["denoiser.width=64", "moe.hidden=64", "moe.experts=4", "data.max_frames=80"]


def test_the_scattering_form_computes_what_the_block_computes():
    torch.manual_seed(0)
    block = MoeBlock(MoeConfig(experts=4, hidden=24), width=16)
    torch.nn.init.normal_(block.router.motion.weight)
    x, emb, text = torch.randn(2, 3, 5, 16, requires_grad=True), torch.randn(3, 16), torch.randn(3, 16)
    pool = TokenPool.of(torch.arange(5) < torch.tensor([5, 2, 0])[:, None], persons=2)
    leaves = [x, *block.parameters()]
    expected = block(x, emb, text, pool)
    expected_grads = torch.autograd.grad(expected.square().sum(), leaves)
    assert expected.any()
    block.experts = ScatteringExperts(block)  # type: ignore[assignment]
    found = block(x, emb, text, pool)
    torch.testing.assert_close(found, expected)
    for gradient, wanted in zip(torch.autograd.grad(found.square().sum(), leaves), expected_grads, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_the_command_prints_every_form_and_counts_its_products(capsys):
    words = ["bench", "moe", "--samples", "8", "--repeats", "3", "--json", *SMALL]
    before = torch.get_num_threads()
    assert main(words) == 0
    assert torch.get_num_threads() == before
    found = json.loads(capsys.readouterr().out)
    tokens = 2 * 8 * 20
    assert tuple(found) == ("tokens", "device", *FORMS)
    assert (found["tokens"], found["device"]) == (tokens, "CPU, 1 thread, float32")
    for one in (found[name] for name in FORMS):
        assert one["share_of_peak"] is None
        # The biases are calibrated: as many pairs of token and expert as the dense form has tokens.
        assert one["tflops"] * one["seconds"] * 1e12 == pytest.approx(3 * 2 * 3 * tokens * 64 * 64)
    # The weights' gradients are the same in both.
    assert found["block"]["peak_mb"] < found["scatter"]["peak_mb"]
    assert main(words[:6] + SMALL) == 0
    table = capsys.readouterr().out
    assert f"Forward + backward of {tokens} tokens on CPU" in table
    assert "dense scatter" in table


@pytest.mark.parametrize("selection", ["dense", "uniform"])
def test_what_cannot_be_compared_is_refused(selection):
    values = settings.load("interhuman", [*SMALL, f"moe.selection={selection}"])
    with pytest.raises(UserError, match=rf"moe.selection = '{selection}' \(allowed: 'dynamic'\)"):
        bench_moe(values, samples=1, repeats=1, threads=1, progress=lambda *_: None)


@pytest.mark.slow
def test_the_block_is_about_as_fast_as_the_dense_one_and_far_smaller_than_a_scattering_one():
    """On an idle machine at most 1.15 x the time; a test may share it."""
    found = bench_moe(settings.load("interhuman"), samples=64, repeats=5, threads=1, progress=lambda *_: None)
    assert found["block"].peak_mb <= 0.5 * found["scatter"].peak_mb
    assert found["block"].seconds <= 1.4 * found["dense"].seconds
