"""What networks read of a text: a trainable head on the frozen encoder's states, or these states themselves.

Legend: B batch, K text tokens, W text width.
"""

import torch
from torch import Tensor, nn

from intermoe.errors import UserError


class TextHead(nn.Module):
    """A post-norm transformer encoder over the token states, layer norm, then the state at the end-of-text token."""

    def __init__(
        self, width: int, *, layers: int, hidden: int, heads: int, dropout: float, where: str = "denoiser.text_heads"
    ) -> None:
        """Build the head.

        Args:
            width: width W of the token states, and of the condition.
            layers: number of layers.
            hidden: their hidden width.
            heads: their attention heads.
            dropout: in them.
            where: the key that gives the heads, for the message.

        Raises:
            UserError: the heads do not divide the width.
        """
        super().__init__()
        if width % heads:
            raise UserError(f"{where} = {heads}", allowed=f"a divisor of {width}, the encoder's width")
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, activation="gelu", batch_first=True)
        # Nested tensors would drop the padded states and, with some masks, shorten the result.
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, states_BKW: Tensor, mask_BK: Tensor, eot_B: Tensor) -> Tensor:
        """The condition [B, W] of each prompt.

        Args:
            states_BKW: token states of the frozen encoder.
            mask_BK: bool, the tokens that may be attended to.
            eot_B: int64, index of the end-of-text token.
        """
        encoded_BKW = self.encoder(states_BKW, src_key_padding_mask=~mask_BK)
        rows_B = torch.arange(len(eot_B), device=eot_B.device)
        condition_BW: Tensor = self.norm(encoded_BKW[rows_B, eot_B])
        return condition_BW


class EndState(nn.Module):
    """The state of the token that ends the text, as it is; arguments as for ``TextHead``."""

    def forward(self, states_BKW: Tensor, mask_BK: Tensor, eot_B: Tensor) -> Tensor:  # noqa: ARG002 - as TextHead
        """The condition [B, W] of each prompt."""
        return states_BKW[torch.arange(len(eot_B), device=eot_B.device), eot_B]


class WordStates(nn.Module):
    """The states of all tokens of the text, zero beyond it; arguments as for ``TextHead``."""

    def forward(self, states_BKW: Tensor, mask_BK: Tensor, eot_B: Tensor) -> Tensor:
        """The condition [B, K, W] of each prompt."""
        # CLIP's mask holds all 77 places; what stands behind the text says nothing.
        in_text_BK = torch.arange(mask_BK.shape[1], device=eot_B.device) <= eot_B[:, None]
        return states_BKW.where((mask_BK & in_text_BK)[..., None], 0.0)
