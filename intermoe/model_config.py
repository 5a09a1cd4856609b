"""Everything that defines the networks of a model, stored with their weights."""

from typing import Self

from intermoe import checkpoint
from intermoe.config import Config
from intermoe.data.shards import DataConfig
from intermoe.diffusion.schedule import DiffusionConfig
from intermoe.errors import UserError
from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.vae import VaeConfig
from intermoe.places import Place, as_place, is_folder


class ModelConfig(Config):
    """Everything that defines the networks."""

    data: DataConfig = DataConfig()
    vae: VaeConfig = VaeConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    moe: MoeConfig = MoeConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

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
