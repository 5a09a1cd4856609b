"""The way from recordings to a table with every folder in the storage of a URI: the same bytes as on a disk."""

import json

import pytest

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.duet import BODY_MODEL, write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.interx import InterXReader
from intermoe.files import contents, sha256
from intermoe.places import StorageError, as_place, read_bytes
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.evaluate.results import Results
from pipelines.preprocess.preprocess import make_shards
from pipelines.preprocess.sources import SourceConfig
from pipelines.preprocess.tasks import ReadJob, read_part
from pipelines.site import Site
from pipelines.train.routing_history import ROUTING, RoutingHistory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(bucket):
    return as_place(f"{bucket}/pipeline")


@pytest.fixture(scope="module")
def remote_shards(root, shards):
    """The data set of ``shards``, made in the storage of raw recordings that lie there too."""
    source = SourceConfig.parse({"format": "duet", "count": 24, "seed": 1, "root": f"{root}/raw"})
    with source.reader(scratch=root) as reader:
        assert isinstance(reader, InterHumanReader)
        make_shards(reader, name="tiny", out=root / "tiny", encoder="minilm")
    return root / "tiny"


def weights(run):
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    return {file.name: sha256(file) for file in checkpoint.verify(newest) if file.suffix == ".safetensors"}


def test_shards_are_the_same_bytes(remote_shards, shards):
    assert json.loads((remote_shards / CARD).read_text()) == json.loads((shards / CARD).read_text())
    DatasetFolder.open(remote_shards).verify()
    names = {path.name for path in contents(remote_shards)}
    assert names == {path.name for path in shards.iterdir()}


def test_recordings_made_for_the_shards_leave_nothing(root, remote_shards):
    assert sorted(path.name for path in contents(root)) == ["raw", "tiny"]


def test_a_training_in_a_storage_ends_in_the_same_weights_also_when_it_is_interrupted(
    run_workers, tiny, remote_shards, vae, root, tmp_path
):
    values = tiny("denoiser", 4, "train.denoiser.checkpoint_every=2")
    run_workers("denoiser", values, tmp_path / "run", vae=vae)
    remote = root / "runs" / "denoiser"
    run_workers("denoiser", values, remote, vae=vae, dataset=remote_shards, stop=3)
    run_workers("denoiser", values, remote, vae=vae, dataset=remote_shards)
    assert weights(remote) == weights(tmp_path / "run")
    assert RoutingHistory(remote).read() == RoutingHistory(tmp_path / "run").read() != []
    assert sorted(path.name for path in contents(remote)) == ["best", "checkpoints", ROUTING]


def test_an_evaluation_in_a_storage_gives_the_same_numbers(run_workers, tiny, remote_shards, vae, root, store):
    for target in ("evaluator", "denoiser"):
        out = root / "models" / target
        run_workers(target, tiny(target, 2), out, vae=vae if target == "denoiser" else None, dataset=remote_shards)
    request = EvaluateRequest(
        f"{root}/models/denoiser",
        out=root / "evaluation",
        site=Site(store),
        dataset=remote_shards,
        evaluator=f"{root}/models/evaluator",
        overrides={"evaluation.replications": 2},
    )
    results = evaluate(request.checked(), progress=lambda *_: None)
    assert results.about["model"] == f"{root}/models/denoiser/best"
    stored = Results.read(root / "evaluation")
    assert stored.values.equals(results.values)
    names = ["results.html", "results.json", "results.md", "samples.html"]
    assert sorted(path.name for path in contents(root / "evaluation")) == names


def test_duet_in_the_layout_of_interx_is_the_same_in_a_storage(bucket, tmp_path):
    remote = as_place(f"{bucket}/interx")
    write_duet(remote, count=34, seed=0, layout="interx")  # in two parts
    write_duet(tmp_path / "duet", count=34, seed=0, layout="interx")
    files = [path.relative_to(tmp_path / "duet") for path in (tmp_path / "duet").rglob("*") if path.is_file()]
    assert {path: read_bytes(remote / path.as_posix()) for path in files} == {
        path: (tmp_path / "duet" / path).read_bytes() for path in files
    }
    assert len(remote.fs.find(remote.path)) == len(files) == 34 + 6
    reader = InterXReader(remote, body_model=remote / BODY_MODEL)
    assert [recording.id for recording in reader.read(reader.sources()[0])] == ["000000_shake_hands"]


def test_recordings_are_not_set_aside_because_their_storage_does_not_answer(bucket, tmp_path, monkeypatch):
    remote = as_place(f"{bucket}/recordings")
    write_duet(remote, count=2, seed=0)
    reader = InterHumanReader(remote)
    sources = [(source.id, source.split) for source in reader.sources()]
    job: ReadJob = {"part": "0.parquet", "sources": sources}
    cat_file = remote.fs.cat_file
    answers = [True, False]

    def failing(path, **options):
        if str(path).endswith(".npy") and not answers.pop(0):
            raise ConnectionError("away")
        return cat_file(path, **options)

    monkeypatch.setattr(remote.fs, "cat_file", failing)
    with pytest.raises(StorageError) as caught:
        read_part(job, reader, tmp_path)
    name = f"motions_processed/person2/{sources[0][0]}.npy"
    assert str(caught.value) == f"{remote}/{name}: the storage does not do it: away"
    # A file that is missing is the fault of its recording.
    monkeypatch.undo()
    (remote / name).unlink()
    assert read_part(job, reader, tmp_path)["quarantine"] == [
        {"id": sources[0][0], "reason": f"no motion: {name} is missing", "where": ""}
    ]
