"""Which hands touch: read off the denoiser's last hidden states of both persons.

Legend: B batch, P = 2 persons, L latent frames, D width, H hands of a person.
"""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from intermoe.body.hands import TOUCHING, HandContacts

# That two hands touch is rare: logits begin there.
_FIRST_LOGIT = -3.0


class HandContactHead(nn.Module):
    """Predicts of each hand of one person and each of the other whether they touch, and how far apart they then are.

    Both persons' hidden states have a say in it, by the same weights: with the persons exchanged, so is the result.
    """

    def __init__(self, width: int, num_hands: int) -> None:
        super().__init__()
        self.num_hands = num_hands
        self.out = nn.Linear(width, 2 * num_hands**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.out.bias.data[: num_hands**2] = _FIRST_LOGIT / 2

    def forward(self, x_PBLD: Tensor) -> Tensor:
        """The logits [B, L, 2, H, H] of contact, and of the gap as a share of ``TOUCHING``."""
        own_PBL2HH = self.out(x_PBLD).unflatten(-1, (2, self.num_hands, self.num_hands)).float()
        logit_BL2HH: Tensor = own_PBL2HH[0] + own_PBL2HH[1].mT
        return logit_BL2HH


def contact_loss_sum(logit_BL2HH: Tensor, gap_BLHH: Tensor, mask_BL: Tensor) -> Tensor:
    """The cross-entropy of contact, and where hands touch the error of the gap as a share of ``TOUCHING``.

    Args:
        logit_BL2HH: as ``HandContactHead`` gives them.
        gap_BLHH: metres between the wrists, the least of each latent frame.
        mask_BL: bool, the valid latent frames.

    Returns:
        The mean over the pairs of hands, summed over the valid latent frames of both persons.
    """
    touch_BLHH = (gap_BLHH < TOUCHING).float()
    touch_logit_BLHH, gap_logit_BLHH = logit_BL2HH.unbind(2)
    off_BLHH = (gap_logit_BLHH.sigmoid() - gap_BLHH / TOUCHING).abs()
    loss_BLHH = binary_cross_entropy_with_logits(touch_logit_BLHH, touch_BLHH, reduction="none") + touch_BLHH * off_BLHH
    return 2 * loss_BLHH.mean(dim=(-2, -1)).masked_fill(~mask_BL, 0).sum()


def contacts_from_logits(logit_BL2HH: Tensor) -> HandContacts:
    """Probability of contact and gap in metres, [B, L, H, H] each."""
    touch_BLHH, gap_BLHH = logit_BL2HH.sigmoid().unbind(2)
    return HandContacts(touch_BLHH, TOUCHING * gap_BLHH)
