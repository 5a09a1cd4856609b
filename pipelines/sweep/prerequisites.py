"""What all trials of a sweep share: shards, VAE and evaluator, made once and found again by what they are made of."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from intermoe.data.shards import CARD, DatasetFolder
from intermoe.datasets.recordings import Reader
from intermoe.errors import UserError
from intermoe.evaluation.protocol import check_split
from intermoe.files import digest, sha256
from pipelines.cluster.progress import Stages
from pipelines.preprocess.preprocess import preprocess
from pipelines.preprocess.sources import reader_for
from pipelines.sweep.file import Sweep
from pipelines.sweep.trial import done, train_to_the_end
from pipelines.tracking.runs import Run
from pipelines.train.train import Label


def make_shared(found: Sweep, out: Path, parent: Run) -> tuple[Path, Path, Path]:
    """The folders of shards, VAE and evaluator, made where they are missing.

    Raises:
        UserError: the recordings cannot be read, or are too few.
    """
    base, data = found.base, found.profile.data
    shared, shards = out / "shared", shards_folder(found, out)
    for leftover in shared.glob(".*"):
        shutil.rmtree(leftover)
    if not shards.is_dir():
        with _reader(found, scratch=shared) as reader, Stages() as stages:
            preprocess(
                reader,
                name=found.config.name,
                out=shards,
                encoder=data.encoder,
                text_folder=data.text_folder,
                progress=stages,
            )
    check_split(DatasetFolder.open(shards), base.evaluation, "test")
    vae, evaluator = (make_network(target, found, shards, parent) for target in ("vae", "evaluator"))
    return shards, vae, evaluator


def make_network(target: str, found: Sweep, shards: Path, parent: Run) -> Path:
    """The run of the VAE or of the evaluator, beside the shards; trained where it is missing, or to its end."""
    base, values = found.base, found.base.model_dump(mode="json")
    parts = [sha256(shards / CARD), base.seed, values["data"], values[target], values["train"][target]]
    if target == "evaluator":  # whose best checkpoint is the best at finding the own caption in a pool
        parts.append(values["evaluation"]["pool"])
    folder = shards.with_name(f"{target}-{digest(parts)}")
    if not done(folder):
        label = Label(tags={"intermoe.sweep": parent.id}, uri=parent.uri)
        train_to_the_end(target, base, folder, dataset=shards, text_folder=found.profile.data.text_folder, label=label)
    return folder


def check_recordings(found: Sweep, out: Path) -> None:
    """Raise where shards have to be made of recordings that are not there; Duet's are made too."""
    if found.profile.data.format != "duet" and not shards_folder(found, out).is_dir():
        with _reader(found, scratch=out) as reader:
            reader.sources()


def training_recordings(found: Sweep) -> int | None:
    """Recordings of the training split, as far as that is known before they are read."""
    if found.profile.data.format == "duet":
        return round(found.profile.data.count * 0.8)
    try:
        with _reader(found, scratch=Path()) as reader:
            return sum(source.split == "train" for source in reader.sources())
    except UserError:
        return None


def _reader(found: Sweep, scratch: Path) -> AbstractContextManager[Reader]:
    data = found.profile.data
    return reader_for(
        data.format,
        data.root,
        scratch=scratch,
        mapping=data.mapping,
        scale=data.scale,
        count=data.count,
        seed=data.seed,
    )


def shards_folder(found: Sweep, out: Path) -> Path:
    """Where the shards of a sweep lie, or will."""
    return out / "shared" / f"data-{digest(found.profile.data.model_dump(mode='json'))}"
