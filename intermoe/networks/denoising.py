"""What sampling and training need of a denoiser, whatever its layers are.

Legend: B batch, L latent frames, P persons, Z latent numbers of a person-frame, W condition width, K text tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor, nn

from intermoe.body.hands import HandContacts
from intermoe.diffusion.schedule import Diffusion
from intermoe.moe.pool import TokenPool
from intermoe.moe.routing_map import RoutedNetwork
from intermoe.moe.selection import selections
from intermoe.networks.hand_contact import HandContactHead

Reads = Literal["head", "end", "words"]
"""What a network reads of a text: "head", what a text head that is trained with it makes of the frozen encoder's states
[B, W]; "end", the state of the token that ends the text [B, W]; "words", the states of all tokens [B, K, W]."""


class DenoisingNetwork(RoutedNetwork, ABC):
    """Predicts clean latents (or noise, or v) of all persons of motions from noised ones, the timestep and the text.

    Attributes:
        reads: what it reads of a text; zeros for a dropped one.
        num_token_rows: tokens of a moment that are routed.
        error_root_ZZ: what its errors are multiplied by in training before they are squared (see ``decoder_metric``);
            zeros until it is known, None where they are squared as they are.
        contact_head: tells which hands touch, if the network predicts it.
        layers: with the feed-forward blocks in them.
    """

    reads: ClassVar[Reads] = "head"
    num_token_rows: int
    error_root_ZZ: Tensor | None
    contact_head: HandContactHead | None
    layers: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("error_root_ZZ", None)
        self.contact_head = None
        self._runs_ahead: bool | None = None

    @property
    def runs_ahead(self) -> bool:
        """Whether the host runs ahead of the device."""
        is_on_cpu = next(self.parameters()).device.type == "cpu"
        return not is_on_cpu if self._runs_ahead is None else self._runs_ahead

    def run_ahead(self, runs_ahead: bool | None) -> None:  # noqa: FBT001
        """Say whether the host is to run ahead of the device: with few launches, and without waiting for one.

        Args:
            runs_ahead: None, as at first, is wherever the device is not a CPU.
        """
        self._runs_ahead = runs_ahead
        for layer in selections(self):
            layer.has_fixed_rows = runs_ahead

    def forward(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> Tensor:
        """Predict the clean latents.

        Args:
            x_BLPZ: noised latents of all persons.
            t_B: int64 timesteps.
            condition: what it ``reads``; zeros for a dropped one.
            mask_BL: bool, the valid latent frames; what lies beyond them changes nothing.
            pool: the tokens of these frames, from who knows them already: on a GPU finding them waits for the device.

        Returns:
            [B, L, P, Z] in the dtype of x; zero beyond the valid frames.
        """
        return self.predict(x_BLPZ, t_B, condition, mask_BL, pool)[0]

    @abstractmethod
    def predict(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What ``forward`` returns, and the logits of a ``HandContactHead``, if it has one; arguments as there."""

    def hand_contacts(
        self,
        latent_BLPZ: Tensor,  # noqa: ARG002 - of networks that predict it
        condition: Tensor,  # noqa: ARG002
        mask_BL: Tensor,  # noqa: ARG002
        noise_BLPZ: Tensor,  # noqa: ARG002
        diffusion: Diffusion,  # noqa: ARG002
    ) -> HandContacts | None:
        """Which hands touch in each latent frame of generated motions; None where the network does not predict it."""
        return None

    def pool(self, mask_BL: Tensor) -> TokenPool:
        """The tokens of the valid latent frames."""
        return TokenPool.of(mask_BL, self.num_token_rows)

    def of_batch(self, mask_BL: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The network for passes over one batch of motions: their tokens are found once.

        Args:
            mask_BL: bool, the valid latent frames.

        Returns:
            ``forward`` without ``pool``, for this mask, or for it twice over, as guidance has it.
        """
        pools = {copies * len(mask_BL): self.pool(mask_BL.repeat(copies, 1)) for copies in (1, 2)}

        def denoise(x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor) -> Tensor:
            x0_BLPZ: Tensor = self(x_BLPZ, t_B, condition, mask_BL, pools[len(mask_BL)])
            return x0_BLPZ

        return denoise
