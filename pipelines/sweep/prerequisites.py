"""The prerequisites of a sweep's trials: shards, VAE and evaluator, made once and named by a hash of their inputs."""

from pathlib import Path

from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.protocol import check_split
from intermoe.files import digest, remove_leftovers, sha256
from intermoe.places import Place, is_file
from pipelines.cluster.progress import Stages
from pipelines.preprocess.preprocess import preprocess
from pipelines.preprocess.request import PreprocessRequest
from pipelines.site import Site
from pipelines.sweep.file import SweepPlan
from pipelines.sweep.trial import done, train_to_the_end
from pipelines.tracking.label import RunLabel
from pipelines.tracking.runs import Run
from pipelines.train.request import TrainRequest


def make_shared(plan: SweepPlan, out: Place, site: Site, parent: Run) -> tuple[Place, Place, Place]:
    """The folders of shards, VAE and evaluator, made where they are missing.

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
    vae, evaluator = (make_network(target, plan, shards, site, parent) for target in ("vae", "evaluator"))
    return shards, vae, evaluator


def make_network(target: str, plan: SweepPlan, shards: Place, site: Site, parent: Run) -> Place:
    """The run of the VAE or of the evaluator, beside the shards; trained where it is missing, or to its end."""
    values = plan.base.model_dump(mode="json")
    parts = [sha256(shards / CARD), plan.base.seed, values["data"], values[target], values["train"][target]]
    if target == "evaluator":  # its best checkpoint is the best at finding the matching caption in a pool
        parts.append(values["evaluation"]["pool"])
    folder = shards.with_name(f"{target}-{digest(parts)}")
    if not done(folder):
        label = RunLabel(tags={"intermoe.sweep": parent.id})
        train_to_the_end(TrainRequest(target, plan.base, dataset=shards, out=folder, site=site, label=label))
    return folder


def check_recordings(plan: SweepPlan, out: Place) -> None:
    """Raise ``UserError`` where shards have to be made of recordings that are not there."""
    if not is_file(shards_folder(plan, out) / CARD):
        plan.profile.data.check()


def training_recordings(plan: SweepPlan) -> int | None:
    """Recordings of the training split, as far as that is known before they are read."""
    data = plan.profile.data
    if data.format == "duet":
        return round(data.count * 0.8)
    try:
        with data.reader(scratch=Path()) as reader:
            return sum(source.split == "train" for source in reader.sources())
    except UserError:
        return None


def shards_folder(plan: SweepPlan, out: Place) -> Place:
    """The folder of a sweep's shards, made or not."""
    return out / "shared" / f"data-{digest(plan.profile.data.identity())}"
