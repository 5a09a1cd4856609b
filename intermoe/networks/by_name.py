"""The networks for two persons, by the name that a config gives them."""

from typing import Literal

from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import DenoiserConfig, PairLayer, denoiser_layers
from intermoe.networks.intergen import intergen_layers
from intermoe.networks.timotion import TimotionConfig, timotion_layers
from intermoe.networks.vae import STRIDE

NetworkName = Literal["intermoe", "intergen", "timotion"]


def has_vae(network: NetworkName) -> bool:
    """Whether the network works on latents of a VAE, not on motion itself."""
    return network == "intermoe"


def frames_per_latent(network: NetworkName) -> int:
    """Frames of what the network takes as one moment.

    Example:
        >>> frames_per_latent("intermoe"), frames_per_latent("intergen")
        (4, 1)
    """
    return STRIDE if has_vae(network) else 1


def layers_of(
    network: NetworkName, config: DenoiserConfig, moe: MoeConfig, timotion: TimotionConfig
) -> list[PairLayer]:
    """The layers of a network.

    Args:
        network: which.
        config: sizes.
        moe: of the feed-forward blocks.
        timotion: what is TIMotion's alone.
    """
    match network:
        case "intermoe":
            return [*denoiser_layers(config, moe)]
        case "intergen":
            return [*intergen_layers(config, moe)]
        case "timotion":
            return [*timotion_layers(config, moe, timotion)]
