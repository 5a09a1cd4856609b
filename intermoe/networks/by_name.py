"""The networks, by the name that a config gives them: for how many persons, what they work on, and what they read.

Legend: Z latent numbers of a person-frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import nn

from intermoe.body.hands import arms
from intermoe.body.skeletons import SKELETONS, Skeleton
from intermoe.moe.config import MoeConfig
from intermoe.networks.codec import AnyVae
from intermoe.networks.denoiser import Denoiser, DenoiserConfig, PairLayer, denoiser_layers
from intermoe.networks.denoising import DenoisingNetwork, Reads
from intermoe.networks.intergen import intergen_layers
from intermoe.networks.mdm import MdmDenoiser
from intermoe.networks.mld import MldDenoiser
from intermoe.networks.mld_vae import MldVae, MldVaeConfig
from intermoe.networks.salad import SaladDenoiser
from intermoe.networks.salad_vae import SaladVae
from intermoe.networks.timotion import TimotionConfig, timotion_layers
from intermoe.networks.vae import STRIDE, CausalSkeletalVae, VaeConfig
from intermoe.text.head import EndState, TextHead, WordStates

NetworkName = Literal["intermoe", "intergen", "timotion", "mdm", "mld", "salad"]
VaeName = Literal["causal", "salad", "mld"]
"""InterMoE's VAE, SALAD's, or MLD's of one latent token per motion."""


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
    """Persons of its motions, the VAE on whose latents it works, if on any, and what it reads of a text."""

    num_persons: int = 2
    vae: VaeName | None = None
    reads: Reads = "head"


_NETWORKS: Mapping[NetworkName, _Network] = MappingProxyType(
    {
        "intermoe": _Network(vae="causal"),
        "intergen": _Network(),
        "timotion": _Network(),
        "mdm": _Network(num_persons=1, reads=MdmDenoiser.reads),
        "mld": _Network(num_persons=1, vae="mld", reads=MldDenoiser.reads),
        "salad": _Network(num_persons=1, vae="salad", reads=SaladDenoiser.reads),
    }
)


def vae_of(network: NetworkName) -> VaeName | None:
    """The kind of VAE on whose latents the network works; None where it works on motion itself."""
    return _NETWORKS[network].vae


def reads_of(network: NetworkName) -> Reads:
    """What the network reads of a text."""
    return _NETWORKS[network].reads


def frames_per_latent(network: NetworkName, max_frames: int) -> int:
    """Frames of what the network takes as one moment.

    Args:
        network: which.
        max_frames: of the longest motion, which is one moment to MLD.

    Example:
        >>> frames_per_latent("intermoe", 300), frames_per_latent("intergen", 300), frames_per_latent("mld", 197)
        (4, 1, 197)
    """
    match vae_of(network):
        case None:
            return 1
        case "mld":
            return max_frames
        case _:
            return STRIDE


def persons_of(network: NetworkName) -> int:
    """Of how many persons a network makes motion: 1 or 2."""
    return _NETWORKS[network].num_persons


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


def vae_for(network: NetworkName, config: VaeConfig, mld: MldVaeConfig, skeleton: Skeleton) -> AnyVae | None:
    """The VAE on whose latents the network works, if on any.

    Args:
        network: which.
        config: sizes of a skeletal VAE.
        mld: sizes of MLD's.
        skeleton: whose joints the features describe.
    """
    match vae_of(network):
        case "causal":
            return CausalSkeletalVae(config, skeleton)
        case "salad":
            return SaladVae(config, skeleton)
        case "mld":
            return MldVae(mld, skeleton)
        case None:
            return None


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
    match network:
        case "mdm":
            return MdmDenoiser(config, moe, data.latent, data.condition)
        case "mld":
            return MldDenoiser(config, moe, data.latent, data.condition)
        case "salad":
            return SaladDenoiser(config, moe, data.latent, data.condition, data.skeleton.pools[-1].names)
    return Denoiser(
        config,
        moe,
        latent=data.latent,
        condition=data.condition,
        make_layers=partial(layers_of, network, config, moe, timotion),
        weighs_errors=weighs_errors,
        num_hands=len(arms(data.skeleton)) if predicts_contacts else 0,
    )
