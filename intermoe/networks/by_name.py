"""The networks, by the name that a config gives them: for how many persons, what they work on, and what they read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import nn

from intermoe.body.hands import arms
from intermoe.body.skeletons import SKELETONS, Skeleton
from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import Denoiser, DenoiserConfig, PairLayer, denoiser_layers
from intermoe.networks.denoising import DenoisingNetwork, Reads
from intermoe.networks.intergen import intergen_layers
from intermoe.networks.mdm import MdmDenoiser
from intermoe.networks.timotion import TimotionConfig, timotion_layers
from intermoe.networks.vae import STRIDE
from intermoe.text.head import EndState, TextHead, WordStates

NetworkName = Literal["intermoe", "intergen", "timotion", "mdm"]


class DenoisedData(NamedTuple):
    """What a denoiser works on.

    Attributes:
        skeleton: whose joints the motions show.
        latent: numbers Z of a person in a latent frame.
        condition: width W of the text's states.
    """

    skeleton: Skeleton
    latent: int
    condition: int


@dataclass(frozen=True)
class _Network:
    """Persons of its motions, whether it works on latents of a VAE, and what it reads of a text."""

    num_persons: int = 2
    has_vae: bool = False
    reads: Reads = "head"


_NETWORKS: Mapping[NetworkName, _Network] = MappingProxyType(
    {
        "intermoe": _Network(has_vae=True),
        "intergen": _Network(),
        "timotion": _Network(),
        "mdm": _Network(num_persons=1, reads=MdmDenoiser.reads),
    }
)


def has_vae(network: NetworkName) -> bool:
    """Whether the network works on latents of a VAE, not on motion itself."""
    return _NETWORKS[network].has_vae


def reads_of(network: NetworkName) -> Reads:
    """What the network reads of a text."""
    return _NETWORKS[network].reads


def frames_per_latent(network: NetworkName) -> int:
    """Frames of what the network takes as one moment.

    Example:
        >>> frames_per_latent("intermoe"), frames_per_latent("intergen")
        (4, 1)
    """
    return STRIDE if has_vae(network) else 1


def check_persons(network: NetworkName, skeleton: Skeleton) -> None:
    """Raise ``ValueError`` where the network is for another number of persons than the skeleton's recordings show."""
    num_persons = _NETWORKS[network].num_persons
    if num_persons != skeleton.num_persons:
        allowed = ", ".join(name for name, other in SKELETONS.items() if other.num_persons == num_persons)
        plural = "persons" if num_persons > 1 else "person"
        raise ValueError(
            f"network = {network} is for {num_persons} {plural}, data.skeleton = {skeleton.name} is not"
            f" (allowed: {allowed})"
        )


def text_reader(network: NetworkName, config: DenoiserConfig, width: int) -> nn.Module:
    """What makes the network's condition of token states, their mask, and the places of the tokens that end the texts.

    Args:
        network: which.
        config: sizes of its text head, where it has one.
        width: of the states.
    """
    match reads_of(network):
        case "end":
            return EndState()
        case "words":
            return WordStates()
        case "head":
            return TextHead(
                width,
                layers=config.text_layers,
                hidden=config.text_hidden,
                heads=config.text_heads,
                dropout=config.dropout,
            )


def layers_of(
    network: NetworkName, config: DenoiserConfig, moe: MoeConfig, timotion: TimotionConfig
) -> list[PairLayer]:
    """The layers of a network for two persons.

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
    raise ValueError(f"{network} is for one person")


def denoiser_of(
    network: NetworkName,
    config: DenoiserConfig,
    moe: MoeConfig,
    timotion: TimotionConfig,
    data: DenoisedData,
    *,
    weighs_errors: bool = False,
    predicts_contacts: bool = False,
) -> DenoisingNetwork:
    """The denoiser of that name.

    Args:
        network: which.
        config: sizes.
        moe: of the feed-forward blocks.
        timotion: what is TIMotion's alone.
        data: what it works on.
        weighs_errors: whether there is an ``error_root_ZZ``; of networks for two persons.
        predicts_contacts: whether it predicts which hands touch; of networks for two persons.
    """
    if network == "mdm":
        return MdmDenoiser(config, moe, latent=data.latent, condition=data.condition)
    return Denoiser(
        config,
        moe,
        latent=data.latent,
        condition=data.condition,
        make_layers=partial(layers_of, network, config, moe, timotion),
        weighs_errors=weighs_errors,
        num_hands=len(arms(data.skeleton)) if predicts_contacts else 0,
    )
