"""Everything that defines the networks of a model, stored with their weights."""

from typing import Self

from pydantic import model_validator

from intermoe import checkpoint
from intermoe.body.skeletons import skeleton_named
from intermoe.config import Config
from intermoe.data.shards import DataConfig
from intermoe.diffusion.schedule import DiffusionConfig
from intermoe.errors import UserError
from intermoe.moe.config import MoeConfig
from intermoe.networks.by_name import NetworkName, check_persons, frames_per_latent, reads_of, vae_of
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.mld import check_routing
from intermoe.networks.mld_vae import MldVaeConfig
from intermoe.networks.timotion import TimotionConfig
from intermoe.networks.vae import VaeConfig
from intermoe.places import Place, as_place, is_folder

VAE_PARTS = ("normaliser", "vae")
"""The parts of a model that a training of its VAE makes."""


class ModelConfig(Config):
    """Everything that defines the networks.

    Attributes:
        data: what they are trained on.
        network: InterMoE, or a rival: InterGen and TIMotion for two persons and MDM for one work on motion itself, MLD
            and SALAD for one on latents of VAEs of their own.
        vae: of InterMoE and of SALAD; nothing to the others.
        mld_vae: of MLD; nothing to the others.
        denoiser: sizes of the network.
        timotion: what is TIMotion's alone; nothing to the others.
        moe: of the layers' feed-forward blocks; ``dense`` is the network as it was published.
        diffusion: noise and sampling; without a VAE there is nothing to draw, so that both its targets are one.
    """

    data: DataConfig = DataConfig()
    network: NetworkName = "intermoe"
    vae: VaeConfig = VaeConfig()
    mld_vae: MldVaeConfig = MldVaeConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    timotion: TimotionConfig = TimotionConfig()
    moe: MoeConfig = MoeConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

    @model_validator(mode="after")
    def _errors_can_be_decoded(self) -> Self:
        if self.diffusion.error == "decoded" and not self.has_vae:
            raise ValueError(
                f"diffusion.error = decoded needs a VAE, which network = {self.network} has not (allowed: latent)"
            )
        return self

    @model_validator(mode="after")
    def _network_of_as_many_persons(self) -> Self:
        skeleton = skeleton_named(self.data.skeleton)
        check_persons(self.network, skeleton)
        if self.network in ("mld", "salad") and self.denoiser.layers % 2 == 0:
            raise ValueError(f"denoiser.layers = {self.denoiser.layers} with network = {self.network} (allowed: odd)")
        if self.network == "mld":
            check_routing(self.moe)
            if self.denoiser.width != self.mld_vae.width:
                raise ValueError(
                    f"denoiser.width = {self.denoiser.width} with network = mld (allowed: {self.mld_vae.width}, as "
                    "mld_vae.width)"
                )
            if self.mld_vae.most_frames < self.data.max_frames:
                raise ValueError(
                    f"mld_vae.places = {self.mld_vae.places} (allowed: data.max_frames + 2 = "
                    f"{self.data.max_frames + 2} or more)"
                )
        of_two = {
            "data.persons": (self.data.persons, "drawn"),
            "denoiser.person_embedding": (self.denoiser.person_embedding, False),
            "denoiser.person_conditioning": (self.denoiser.person_conditioning, False),
            "diffusion.error": (self.diffusion.error, "latent"),
            "diffusion.hand_contact_loss": (self.diffusion.hand_contact_loss, 0),
        }
        for key, (value, allowed) in of_two.items() if skeleton.num_persons == 1 else ():
            if value != allowed:
                raise ValueError(
                    f"{key} = {value} is of two persons, network = {self.network} of one (allowed: {allowed})"
                )
        return self

    @property
    def has_vae(self) -> bool:
        """Whether the network works on latents of a VAE."""
        return vae_of(self.network) is not None

    @property
    def frames_per_latent(self) -> int:
        """Frames of a latent frame; 1 without a VAE, those of the longest motion with MLD's."""
        return frames_per_latent(self.network, self.data.max_frames)

    @property
    def longest(self) -> int:
        """Frames of the longest motion that fills its latent frames."""
        return self.data.max_frames // self.frames_per_latent * self.frames_per_latent

    @property
    def codec_parts(self) -> tuple[str, ...]:
        """The parts of a model that turn motion into latents and back."""
        return VAE_PARTS if self.has_vae else ("normaliser",)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a model that its checkpoint holds."""
        text_head = ("text_head",) if reads_of(self.network) == "head" else ()
        return (*self.codec_parts, *text_head, "denoiser")

    @classmethod
    def load(cls, path: str | Place) -> Self:
        """The config of trained networks; their weights are not read.

        Args:
            path: a checkpoint, or the folder of a training run (then its best checkpoint).

        Raises:
            UserError: no checkpoint there, a damaged one, or one without a config of networks.
        """
        folder = trained_folder(path)
        stored = checkpoint.documents(folder).get("config")
        if not isinstance(stored, dict):
            raise UserError("holds no config, so it is not a model", where=folder, allowed="a run of `intermoe train`")
        # That of a run says more, such as how it was trained.
        return cls.parse({key: value for key, value in stored.items() if key in cls.model_fields}, where=folder)


def trained_folder(path: str | Place) -> Place:
    """The checkpoint that is meant: the best of a training run, or the folder itself."""
    folder = as_place(path)
    best = folder / "best"
    return best if is_folder(best) else folder
