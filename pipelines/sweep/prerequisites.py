"""The prerequisites of a sweep's trials: shards, VAEs and evaluator, made once and named by a hash of their inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.conventions import EvaluatorConventions
from intermoe.evaluation.protocol import check_split
from intermoe.files import digest, remove_leftovers, sha256
from intermoe.places import Place, is_file
from pipelines.cluster.progress import Stages
from pipelines.preprocess.preprocess import preprocess
from pipelines.preprocess.request import PreprocessRequest
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.sweep.file import SweepPlan
from pipelines.sweep.trial import done, seconds, train_to_the_end
from pipelines.tracking.label import RunLabel
from pipelines.tracking.runs import Run
from pipelines.train.request import TrainRequest


@dataclass(frozen=True)
class Prerequisites:
    """What the trials of a sweep start from.

    Attributes:
        shards: the folder of the data set.
        vaes: of each trial whose network has a VAE, by its key, the run of that; those that train it alike have the
            same.
        evaluator: the run of the evaluator.
    """

    shards: Place
    vaes: Mapping[str, Place]
    evaluator: Place

    @property
    def seconds(self) -> dict[str, float]:
        """How long the training of each kind of network has taken."""
        return {"vae": sum(map(seconds, sorted(set(self.vaes.values())))), "evaluator": seconds(self.evaluator)}


def make_shared(plan: SweepPlan, out: Place, site: Site, parent: Run) -> Prerequisites:
    """Shards, VAEs and evaluator, made where they are missing.

    Raises:
        UserError: the recordings cannot be read, or are too few.
    """
    shards = shards_folder(plan, out)
    remove_leftovers(shards.parent)
    if not is_file(shards / CARD):
        data = plan.profile.data
        request = PreprocessRequest(plan.config.name, data, data.encoder, shards, site)
        with Stages() as stages:
            preprocess(request.checked(), stages)
    check_split(DatasetFolder.open(shards), plan.base.evaluation, "test")
    vaes = {
        trial.key: make_network("vae", _vae_settings(plan.base, trial.settings), shards, site, parent)
        for trial in plan.trials
        if trial.settings.has_vae
    }
    return Prerequisites(shards, vaes, make_network("evaluator", plan.base, shards, site, parent))


def make_network(target: str, settings: Settings, shards: Place, site: Site, parent: Run) -> Place:
    """The run of a VAE or of the evaluator, beside the shards; trained where it is missing, or to its end."""
    values = settings.model_dump(mode="json")
    if settings.evaluator.conventions == EvaluatorConventions():
        # Left out unless they are set, so that the evaluators of older sweeps stay.
        del values["evaluator"]["conventions"]
    parts = [sha256(shards / CARD), settings.seed, values["data"], values[target], values["train"][target]]
    if target == "evaluator":  # its best checkpoint is the best at finding the matching caption in a pool
        parts.append(values["evaluation"]["pool"])
    folder = shards.with_name(f"{target}-{digest(parts)}")
    if not done(folder):
        label = RunLabel(tags={"intermoe.sweep": parent.id})
        train_to_the_end(TrainRequest(target, settings, dataset=shards, out=folder, site=site, label=label))
    return folder


def _vae_settings(base: Settings, trial: Settings) -> Settings:
    """Those of all points, but for what decides a trial's VAE; who is the first person is nothing to it."""
    train = base.train.model_copy(update={"vae": trial.train.vae})
    return base.model_copy(update={"network": trial.network, "vae": trial.vae, "train": train})


def check_recordings(plan: SweepPlan, out: Place) -> None:
    """Raise ``UserError`` where shards have to be made of recordings that are not there."""
    if not is_file(shards_folder(plan, out) / CARD):
        plan.profile.data.check()


def training_recordings(plan: SweepPlan) -> int | None:
    """Recordings of the training split, as far as that is known before they are read."""
    data = plan.profile.data
    if data.is_made_here:
        # Of Solo, as many are mirror images.
        return round(data.count * 0.8 * (2 if data.format == "solo" else 1))
    try:
        with data.reader(scratch=Path()) as reader:
            return sum(source.split == "train" for source in reader.sources())
    except UserError:
        return None


def shards_folder(plan: SweepPlan, out: Place) -> Place:
    """The folder of a sweep's shards, made or not."""
    return out / "shared" / f"data-{digest(plan.profile.data.identity())}"
