"""A layer of MDM's and of MLD's denoiser: as published, or with experts for the tokens that are motion.

Legend: B batch, S tokens, D width, P = 1 person.
"""

from torch import Tensor, nn
from torch.nn.functional import pad

from intermoe.layers.skip_transformer import PostNormLayer
from intermoe.moe.block import DenseBlock, MoeBlock
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import TextLogits


class RoutedLayer(PostNormLayer):
    """Self-attention of all tokens, then one network for each of them, or experts for those that are motion.

    Timestep and text are no motion: experts neither see them nor add anything to them. There is no norm before the
    experts, as there is none before the network.
    """

    feed_forward: MoeBlock | DenseBlock

    def __init__(
        self,
        attention: nn.MultiheadAttention,
        feed_forward: MoeBlock | DenseBlock,
        dropout: float,
        *,
        before: int = 0,
        after: int = 0,
    ) -> None:
        """Build the layer.

        Args:
            attention: of all tokens.
            feed_forward: the block, without a norm of its own.
            dropout: of what is added.
            before: tokens before those of the motion.
            after: tokens behind them.
        """
        super().__init__(attention, feed_forward, dropout)
        self.before, self.after = before, after

    def forward(  # type: ignore[override]
        self, x_BSD: Tensor, text_BD: Tensor | TextLogits, pool: TokenPool, barred_BS: Tensor | None = None
    ) -> Tensor:
        """The tokens [B, S, D] after the layer.

        Args:
            x_BSD: the tokens.
            text_BD: what the text router reads, or the logits made of it.
            pool: the tokens of the motion.
            barred_BS: bool, the tokens that none attends to; of no sample all.
        """
        x_BSD = self.attended(x_BSD, barred_BS)
        if isinstance(self.feed_forward, DenseBlock):
            return self.fed(x_BSD, self.feed_forward(x_BSD[None], None, text_BD, pool)[0])
        motion_BSD = x_BSD[:, self.before : x_BSD.shape[1] - self.after]
        fed_PBSD = self.feed_forward(motion_BSD[None], None, text_BD, pool)
        return self.fed(x_BSD, pad(fed_PBSD[0], (0, 0, self.before, self.after)))
