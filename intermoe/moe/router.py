"""The routers: how much each expert wants each token (paper, section 3.2).

Legend: P = 2 persons, B batch, L latent frames, D width, E experts.
"""

from typing import Literal

import torch
from torch import Tensor, nn

RouterKind = Literal["synergistic", "motion", "text"]


class Router(nn.Module):
    """Linear maps from the motion, from the text, or from both, to a logit for each expert.

    ``synergistic`` weighs the two: ``logits = alpha * motion(x) + (1 - alpha) * text(c)`` (eqs. 1-3). ``motion`` and
    ``text`` are one of the two alone, unweighted; under ``text`` all tokens of a sample have the same logits.

    Computed in float32 even under autocast, as a token's experts hang on the sign of a small difference. Weights start
    as those of ``torch.nn.Linear``.
    """

    def __init__(self, width: int, num_experts: int, kind: RouterKind = "synergistic", alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = {"synergistic": alpha, "motion": 1.0, "text": 0.0}[kind]
        self.motion = nn.Linear(width, num_experts, bias=False) if kind != "text" else None
        self.text = nn.Linear(width, num_experts, bias=False) if kind != "motion" else None

    def forward(self, x_PBLD: Tensor, text_BD: Tensor) -> Tensor:
        """Logits [P, B, L, E] of the tokens x [P, B, L, D] under the text [B, D] of their samples."""
        with torch.autocast(x_PBLD.device.type, enabled=False):
            if self.text is None:
                return self._motion(x_PBLD)
            text_B1E = self.text(text_BD.float())[:, None]
            if self.motion is None:
                return text_B1E.expand(*x_PBLD.shape[:3], -1)
            return self.alpha * self._motion(x_PBLD) + (1 - self.alpha) * text_B1E

    def _motion(self, x_PBLD: Tensor) -> Tensor:
        assert self.motion is not None
        logits_PBLE: Tensor = self.motion(x_PBLD.float())
        return logits_PBLE
