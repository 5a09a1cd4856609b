"""The denoiser as it runs on a GPU is one graph, and so is each of its layers: nothing in it needs the host."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from intermoe.layers.attention import key_mask
from intermoe.layers.conditioning import Modulation
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import TextLogits
from intermoe.moe.selection import selections
from intermoe.networks.denoiser import Denoiser, DenoiserConfig, DenoiserLayer

LENGTHS = (12, 7)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_in_bfloat16_compiles_whole(training: bool) -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(width=16, layers=1, heads=2, dropout=0.0)
    model = Denoiser(config, MoeConfig(experts=4, hidden=8), latent=4, condition=8).train(training)
    model.run_ahead(True)
    for selection in selections(model):
        selection.room = 2.0
    layer = model.layers[0]
    assert isinstance(layer, DenoiserLayer)
    nn.init.normal_(layer.feed_forward.norm.modulation.weight)
    pool = TokenPool.of_lengths(LENGTHS, num_frames=12, num_persons=2)
    barred = key_mask(torch.arange(12) < torch.tensor(LENGTHS)[:, None], 2, torch.bfloat16)
    modulation = Modulation(1 + torch.randn(2, 1, 16), torch.randn(2, 1, 16))
    text = TextLogits(torch.randn(2, 4))
    x = torch.randn(2, 2, 12, 16)

    def run(layer: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = layer(leaf, [modulation] * 4, text, barred, pool)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), leaf)
        return y, gradient

    for eager, compiled in zip(run(layer), run(torch.compile(layer, fullgraph=True, backend="eager")), strict=True):
        assert torch.equal(compiled, eager)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_the_denoiser_in_bfloat16_compiles_whole(training: bool) -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(width=16, layers=2, heads=2, dropout=0.0)
    model = Denoiser(config, MoeConfig(experts=4, hidden=8), latent=4, condition=8).train(training)
    model.run_ahead(True)
    for selection in selections(model):
        selection.room = 2.0
    nn.init.normal_(model.out.weight)
    noisy, condition, t = torch.randn(2, 12, 2, 4), torch.randn(2, 8), torch.tensor([3, 900])
    mask = torch.arange(12) < torch.tensor(LENGTHS)[:, None]

    def run(model: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        leaf = noisy.clone().requires_grad_()
        pool = TokenPool.of_lengths(LENGTHS, num_frames=12, num_persons=2)
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = model(leaf, t, condition, mask, pool)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
        return y, gradient

    for eager, compiled in zip(run(model), run(torch.compile(model, fullgraph=True, backend="eager")), strict=True):
        assert torch.equal(compiled, eager)
        assert eager.abs().max() > 0
