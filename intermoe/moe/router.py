"""The routers: how much each expert wants each token (paper, section 3.2).

Legend: P persons, B batch, L latent frames, D width, E experts, K routers, F = K * E logits of all routers.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

RouterKind = Literal["synergistic", "motion", "text"]


class TextLogits(NamedTuple):
    """What the text contributes to a router's logits, weighted."""

    weighted_BE: Tensor


class Router(nn.Module):
    """Linear maps from the motion, from the text, or from both, to a logit for each expert.

    ``synergistic`` weighs the two: ``logits = alpha * motion(x) + (1 - alpha) * text(c)`` (eqs. 1-3). ``motion`` and
    ``text`` are one of the two alone, unweighted; under ``text`` all tokens of a sample have the same logits.

    Computed in float32 even under autocast, as a token's experts hang on the sign of a small difference. Weights start
    as those of ``torch.nn.Linear``.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        kind: RouterKind = "synergistic",
        alpha: float = 0.5,
        text_width: int | None = None,
    ) -> None:
        """Build the router.

        Args:
            width: of the tokens.
            num_experts: E.
            kind: what the logits are made of.
            alpha: weight of the motion's logits.
            text_width: of the texts, if it is another.
        """
        super().__init__()
        self.alpha = {"synergistic": alpha, "motion": 1.0, "text": 0.0}[kind]
        self.motion = nn.Linear(width, num_experts, bias=False) if kind != "text" else None
        self.text = nn.Linear(text_width or width, num_experts, bias=False) if kind != "motion" else None

    def forward(self, x_PBLD: Tensor, text_BD: Tensor | TextLogits) -> Tensor:
        """Logits [P, B, L, E] of the tokens x [P, B, L, D] under the texts of their samples.

        Args:
            x_PBLD: the tokens.
            text_BD: the texts, or what :func:`text_logits` has made of them for this router.
        """
        with torch.autocast(x_PBLD.device.type, enabled=False):
            if self.text is None:
                return self._motion(x_PBLD)
            if isinstance(text_BD, TextLogits):
                weighted_B1E = text_BD.weighted_BE[:, None]
            else:
                weighted_B1E = self.text(text_BD.float())[:, None]
                weighted_B1E = weighted_B1E if self.motion is None else (1 - self.alpha) * weighted_B1E
            if self.motion is None:
                return weighted_B1E.expand(*x_PBLD.shape[:3], -1)
            return self.alpha * self._motion(x_PBLD) + weighted_B1E

    def _motion(self, x_PBLD: Tensor) -> Tensor:
        assert self.motion is not None
        logits_PBLE: Tensor = self.motion(x_PBLD.float())
        return logits_PBLE


def text_logits(routers: Sequence[Router], text_BD: Tensor) -> list[TextLogits]:
    """What the texts contribute to the logits of several routers, in one product; of those that read no text, nothing.

    Args:
        routers: of one kind and number of experts.
        text_BD: what they read.
    """
    weights = [router.text.weight for router in routers if router.text is not None]
    if not weights:
        return []
    with torch.autocast(text_BD.device.type, enabled=False):
        logits_BF = (1 - routers[0].alpha) * nn.functional.linear(text_BD.float(), torch.cat(weights))
        return list(map(TextLogits, logits_BF.unflatten(1, (len(weights), -1)).unbind(1)))
