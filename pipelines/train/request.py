"""The request for a training and its check; needs no Ray and writes nothing."""

from dataclasses import dataclass, field, replace

from intermoe import checkpoint
from intermoe.data.card import DatasetCard
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.files import check_free
from intermoe.locks import check_unlocked
from intermoe.model_config import VAE_PARTS, ModelConfig, trained_folder
from intermoe.networks.by_name import vae_of
from intermoe.places import Place, as_place, check_storage
from intermoe.text.encoders import encoder_width
from intermoe.training.evaluator import check_vectors
from pipelines.cluster.job_environment import check_noted_store
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.address import as_noted
from pipelines.tracking.label import RunLabel
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.routing_history import RoutingHistory
from pipelines.train.run_folder import check_same, run_identity, run_note


@dataclass(frozen=True)
class TrainRequest:
    """A network to train.

    Attributes:
        target: "vae", "evaluator" or "denoiser".
        settings: of the run.
        dataset: a folder of shards.
        out: the folder of the run; ``best`` in it is the model, ``checkpoints`` what a resumed run goes on from.
        site: where things lie.
        vae: the run or checkpoint of the VAE, which the denoiser of InterMoE needs; a resumed run knows its own.
        resume: whether to go on with what ``out`` holds.
        label: of its run in MLflow.
    """

    target: str
    settings: Settings
    dataset: Place
    out: Place
    site: Site
    vae: Place | None = None
    resume: bool = False
    label: RunLabel = field(default_factory=RunLabel)

    def checked(self) -> "TrainingJob":
        """The training, if it can begin.

        Raises:
            UserError: unknown target, data set or VAE that do not fit the settings, ``out`` is taken, holds no such
                run to resume or a damaged one, or another process works in it.
        """
        if self.target not in OBJECTIVES:
            raise UserError(f"unknown target {self.target!r}", allowed=", ".join(OBJECTIVES))
        if self.target == "vae" and not self.settings.has_vae:
            raise UserError(
                f"network = {self.settings.network} has no VAE", where="train vae", allowed="train denoiser"
            )
        if self.target == "evaluator":
            check_vectors(self.settings.evaluator, self.site.word_vectors)
        check_storage(self.out)
        check_unlocked(self.out)
        folder = DatasetFolder.open(self.dataset)
        card = folder.card
        _check_dataset(self.settings, card, self.dataset)
        folder.check_persons(self.settings.data.persons)
        note = run_note(self.out)
        vae = None
        if self.target == "denoiser":
            noted = as_place(note["vae"]) if self.resume and note.get("vae") else None
            vae = _vae_checkpoint(self.settings, self.vae or noted)
        resolved = replace(self, dataset=self.dataset.resolve(), out=self.out.resolve(), vae=vae)
        if self.resume:
            check_same(run_identity(self.target, self.settings, self.dataset, vae), note, self.out)
            # A run goes on in the store that it began in.
            uri = as_noted(note["tracking_uri"], self.site.tracking_uri)
            check_noted_store(uri)
            # What the workers read first, so that its damage is said before they are started.
            RoutingHistory(self.out)
            resolved = replace(resolved, site=replace(self.site, tracking_uri=uri))
        else:
            check_free(self.out, "a new or an empty folder, or --resume to go on with the run in it")
        return TrainingJob(resolved, card)


@dataclass(frozen=True)
class TrainingJob:
    """A training that can begin; sent whole to the workers.

    Attributes:
        request: what was asked for, with absolute paths and the checkpoint of the VAE.
        card: of the data set.
    """

    request: TrainRequest
    card: DatasetCard


def _check_dataset(settings: Settings, card: DatasetCard, dataset: Place) -> None:
    """Raise where the data set is not what the settings describe."""
    data = settings.data
    for key, configured, stored in (
        ("data.skeleton", data.skeleton, card.skeleton),
        ("data.encoder", data.encoder, card.encoder.name),
        ("text width", encoder_width(data.encoder), card.encoder.width),
    ):
        if configured != stored:
            raise UserError(
                f"{key} of the data set is {stored!r}", where=dataset, allowed=f"{configured!r}, as in the config"
            )
    if not card.recordings.get("train"):
        raise UserError("the training split is empty", where=dataset)


def _vae_checkpoint(settings: Settings, path: Place | None) -> Place | None:
    """The VAE's checkpoint, if it is one and has the sizes of the settings; None for a network without one."""
    if not settings.has_vae:
        if path is not None:
            raise UserError(f"{path} is given", where="--vae", allowed=f"none: network = {settings.network} has no VAE")
        return None
    if path is None:
        raise UserError("the denoiser needs a trained VAE", where="--vae", allowed="a run of `intermoe train vae`")
    folder = trained_folder(path)
    parts = {file.stem for file in checkpoint.verify(folder) if file.suffix == ".safetensors"}
    config = checkpoint.documents(folder).get("config")
    missing = [part for part in VAE_PARTS if part not in parts]
    if missing or not isinstance(config, dict):
        lacks = " and no ".join(missing) or "config"
        raise UserError(f"has no {lacks}", where=folder, allowed="a run of `intermoe train vae`")
    kind, own_kind = vae_of(ModelConfig.load(folder).network), vae_of(settings.network)
    if kind != own_kind:
        raise UserError(f"its VAE is {kind}", where=folder, allowed=f"{own_kind}, as of network = {settings.network}")
    for key in ("data", "mld_vae" if kind == "mld" else "vae"):
        stored, configured = config.get(key) or {}, settings.model_dump(mode="json")[key]
        for name in configured:
            # A VAE knows nothing of text, of how long a motion is, nor of who is the first person.
            if name not in ("encoder", "max_frames", "persons", "dropout") and stored.get(name) != configured[name]:
                raise UserError(
                    f"{key}.{name} of the VAE is {stored.get(name)!r}",
                    where=folder,
                    allowed=f"{configured[name]!r}, as in the config",
                )
    return folder.resolve()
