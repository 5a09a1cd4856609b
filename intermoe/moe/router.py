"""The Synergistic Router: logits from motion and text (paper, section 3.2).

Legend: P = 2 persons, B batch, L latent frames, D width, E experts.
"""

import torch
from torch import Tensor, nn


class SynergisticRouter(nn.Module):
    """Two linear maps to the experts, one of the motion and one of the text, in weighted sum.

    ``logits = alpha * motion(x) + (1 - alpha) * text(c)`` (eqs. 1-3). Computed in float32 even under autocast, as a
    token's experts hang on the sign of a small difference. Weights start as those of ``torch.nn.Linear``.
    """

    def __init__(self, width: int, experts: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.motion = nn.Linear(width, experts, bias=False)
        self.text = nn.Linear(width, experts, bias=False)

    def forward(self, x_PBLD: Tensor, text_BD: Tensor) -> Tensor:
        """Logits [P, B, L, E] of the tokens x [P, B, L, D] under the text [B, D] of their samples."""
        with torch.autocast(x_PBLD.device.type, enabled=False):
            motion_PBLE = self.motion(x_PBLD.float())
            text_B1E = self.text(text_BD.float())[:, None]
            logits_PBLE: Tensor = self.alpha * motion_PBLE + (1 - self.alpha) * text_B1E
        return logits_PBLE
