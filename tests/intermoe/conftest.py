"""What several tests need to read the published weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Weights = dict[str, Tensor]


@pytest.fixture
def adapt_block() -> Callable[[Weights], Weights]:
    """A function from the published names and shapes of an MoE block's weights (or their gradients) to this project's.

    Published logits are a plain sum of motion and text, ours at alpha 0.5 their mean: the router weights are doubled.
    (For gradients the right factor is a half.)
    """

    def adapt(published: Weights) -> Weights:
        experts = sum(name.endswith("down_proj.weight") for name in published)
        gate, up, down = (
            torch.stack([published[f"experts.{e}.{part}_proj.weight"].T for e in range(experts)])
            for part in ("gate", "up", "down")
        )
        return {
            "norm.modulation.weight": published["norm.emb_layers.1.weight"],
            "norm.modulation.bias": published["norm.emb_layers.1.bias"],
            "router.motion.weight": 2 * published["gate_weight"],
            "router.text.weight": 2 * published["text_gate_weight"],
            "experts.inward_EDH": torch.cat([gate, up], dim=-1),
            "experts.outward_EHD": down,
        }

    return adapt
