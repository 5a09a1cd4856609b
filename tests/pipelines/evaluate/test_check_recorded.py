"""Recorded motion alone, beside what its evaluator is known to give: without a model, Ray and MLflow."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_model import small_evaluator, small_model
from toy_shards import write_shards

from intermoe import checkpoint
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import PART, Evaluator, EvaluatorConfig
from intermoe.evaluation.metrics import MetricScales
from intermoe.evaluation.runner import RecordedRunner, read_parts
from intermoe.text.words import Vocabulary, tagged_words
from pipelines.cli import main
from pipelines.evaluate.check_recorded import CheckRecordedRequest, check_recorded, checked_table
from pipelines.evaluate.results import Results
from pipelines.site import Site

KNOWN = {
    "dataset": "toy",
    "skeleton": "smpl22",
    "origin": "published",
    "source": "Table 9 of [somebody]",
    "ranges": {"r_precision_top1": [0, 1], "fid": [0, 1], "multimodality": [1, 2]},
}
PROTOCOL = {"replications": 2, "pool": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def no_ray_and_no_mlflow(monkeypatch):
    for name in ("ray.init", "pipelines.tracking.runs.Run.start"):
        monkeypatch.setattr(name, lambda *_args, **_options: pytest.fail("Ray is started, or a run is opened"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_shards(folder, {"train": 1, "test": 6})
    return folder


@pytest.fixture(scope="module")
def networks():
    return small_evaluator(small_model(data={"max_frames": 40}))


@pytest.fixture
def evaluator(tmp_path, networks):
    """A function that stores the same evaluator with conventions of its own."""

    def evaluator(**conventions: object) -> Path:
        config = EvaluatorConfig.parse(networks.config.model_dump() | {"conventions": conventions})
        values = {
            "name": "judge",
            "evaluator": config.model_dump(mode="json"),
            "data": networks.data.model_dump(mode="json"),
            "evaluation": PROTOCOL,
        }
        folder = tmp_path / f"evaluator-{len(list(tmp_path.iterdir()))}"
        tensors = {PART: networks.state_dict()}
        checkpoint.save(folder, tensors=tensors, documents={"config": values, "state": {"step": 1}})
        return folder

    return evaluator


def words_evaluator(folder: Path, **data: object) -> Path:
    """A stored evaluator of T2M's kind, of random weights."""
    sizes = {"vectors": "learned", "word_width": 6, "movement_width": 8, "motion_hidden": 8, "text_hidden": 8}
    config = EvaluatorConfig.parse({"kind": "t2m", "t2m": {**sizes, "embedding": 4}})
    torch.manual_seed(0)
    vocabulary = Vocabulary.of([tagged_words("The first person pushes the second person, who waves.")])
    networks = Evaluator(config, DataConfig.parse({"max_frames": 40, **data}), vocabulary)
    values = {
        "name": "judge",
        "evaluator": config.model_dump(mode="json"),
        "data": networks.data.model_dump(mode="json"),
        "evaluation": PROTOCOL,
    }
    checkpoint.save(folder, tensors={PART: networks.state_dict()}, documents={"config": values, "state": {"step": 1}})
    return folder


def measured(evaluator: Path, shards: Path, **options) -> Results:
    request = CheckRecordedRequest(evaluator, shards, Site("sqlite:///nowhere.db"), **options)
    seen = []
    plan = request.checked()
    results = check_recorded(plan, progress=lambda *call: seen.append(call))
    total = sum(len(job.samples) for job in plan.jobs)
    assert (seen[0], seen[-1]) == (("recorded", 0, total), ("recorded", total, total))
    return results


def check(capsys, evaluator: Path, shards: Path, *words: str) -> tuple[int, str, str]:
    """The status of the command, what it prints, and its error."""
    status = main(["evaluate", "--check-recorded", "--evaluator", str(evaluator), "--data", str(shards), *words])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("recorded: ")]
    return status, " ".join(printed.out.split()), "\n".join(lines)


def test_an_evaluator_without_a_known_row_prints_the_row_that_it_gives(capsys, evaluator, shards):
    status, printed, error = check(capsys, evaluator(), shards)
    assert (status, error) == (0, "")
    assert "recorded, run here" in printed
    assert "The evaluator has no known row of recorded motion: this is its row here." in printed
    assert "inside" not in printed
    assert "outside" not in printed


def test_recorded_motion_inside_of_the_known_row_passes(capsys, evaluator, shards):
    status, printed, error = check(capsys, evaluator(known_row=KNOWN), shards)
    assert (status, error) == (0, "")
    assert "known, published" in printed
    assert printed.count("inside") == 2
    assert printed.count("not measured") == 1
    assert "Known, published: Table 9 of [somebody]." in printed


def test_recorded_motion_outside_of_the_known_row_is_one_line_and_the_results_are_whole(
    capsys, evaluator, shards, tmp_path
):
    known = KNOWN | {"ranges": {"r_precision_top1": [0, 1], "fid": [30, 40.5], "mm_dist": [7, 8]}}
    folder, out = evaluator(known_row=known), tmp_path / "out"
    status, printed, error = check(capsys, folder, shards, "--out", str(out))
    assert status == 2
    document = json.loads((out / "results.json").read_text())
    value = document["rows"]["recorded"]["fid"]["mean"]
    assert error == (
        f"error: {folder}: fid of recorded motion is {value:.4f}; outside of their range too: mm_dist (allowed: 30 to "
        "40.5, published: Table 9 of [somebody])"
    )
    assert printed.count("outside of what this evaluator is known to give") == 1
    assert sorted(file.name for file in out.iterdir()) == ["results.html", "results.json", "results.md"]
    assert document["source"] == "run here"
    assert document["about"]["known_row"]["ranges"]["fid"] == [30.0, 40.5]
    assert list(document["rows"]) == ["recorded"]
    assert "Sampler" not in (out / "results.md").read_text()
    status, _, error = check(capsys, folder, shards, "--out", str(out))
    assert (status, error) == (
        2,
        f"error: {out}: exists already and is not overwritten (allowed: another --out)",
    )


@pytest.mark.parametrize("change", [{"dataset": "interhuman"}, {"split": "val"}, {"skeleton": "smplx55"}])
def test_a_row_of_other_recordings_is_not_compared(capsys, evaluator, shards, change):
    known = {"split": "test", **KNOWN, "ranges": {"fid": [30, 40]}, **change}
    status, printed, error = check(capsys, evaluator(known_row=known), shards)
    assert (status, error) == (0, "")
    named = f"{known['dataset']}, {known['skeleton']}, {known['split']} split"
    # A terminal may break the line after any hyphen of the path.
    assert f"known row is of other recordings ({named}) than those of" in printed
    assert "outside" not in printed


def test_the_protocol_is_the_evaluators_own_and_what_differs_is_named(evaluator, shards):
    folder = evaluator()
    own = measured(folder, shards)
    assert own.about["evaluation"]["pool"] == 3
    assert own.about["protocol_differences"] == []
    assert len(own.values) == 2
    other = measured(folder, shards, overrides={"evaluation.pool": 2, "evaluation.replications": 1})
    assert other.recorded.warnings() == [
        "The protocol is not the evaluator's own: evaluation.pool is 2, the evaluator's own is 3."
    ]
    assert other.metrics("recorded")["fid"] == pytest.approx(own.values["fid"].loc["recorded", 0], rel=1e-4)
    assert measured(folder, shards, seed=1).metrics("recorded")["fid"] != own.metrics("recorded")["fid"]


def test_the_scales_are_the_evaluators(evaluator, shards):
    plain = measured(evaluator(), shards).values
    scaled = measured(evaluator(scales={"fid": 1, "diversity": 6}), shards)
    assert scaled.about["scales"] == MetricScales(fid=1, diversity=6).model_dump()
    assert (scaled.values["fid"] * 36).to_list() == pytest.approx(plain["fid"].to_list())
    assert (scaled.values["diversity"] / 2).to_list() == pytest.approx(plain["diversity"].to_list())
    assert scaled.values["mm_dist"].to_list() == plain["mm_dist"].to_list()
    assert "FID of embeddings times 1, Diversity of embeddings times 6" in "\n".join(scaled.notes())


def test_the_table_fits_into_80_columns(evaluator, shards):
    request = CheckRecordedRequest(evaluator(known_row=KNOWN), shards, Site("sqlite:///nowhere.db"))
    plan, output = request.checked(), io.StringIO()
    table = checked_table(plan, check_recorded(plan, progress=lambda *_: None))
    Console(width=80, file=output).print(table)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    (fid,) = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "FID" in line]
    assert fid[0] == "FID ↓"
    assert fid[2:] == ["0.000 to 1.000", "inside"]


def test_what_is_wrong_is_told_before_anything_is_computed(capsys, evaluator, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.evaluate.check_recorded.RecordedRunner", lambda *_: pytest.fail("it computes"))
    folder = evaluator()

    def error(*words: str, data: Path = shards) -> str:
        status, printed, error = check(capsys, folder, data, *words)
        assert (status, printed) == (2, "")
        return error

    assert error("evaluation.pool=7") == (
        f"error: {shards}: evaluation.pool = 7 (allowed: at most 6, the recordings of the test split)"
    )
    assert error("moe.experts=2") == "error: moe.experts is nothing to recorded motion (allowed: evaluation.*)"
    assert error("evaluation.pol=2").startswith(f"error: {folder}: unknown key 'pol' (allowed: replications, pool, ")
    assert error("--seed", "-1") == "error: seed -1 (allowed: 0 or more)"
    write_shards(tmp_path / "clip", {"test": 3}, encoder="clip")
    assert error(data=tmp_path / "clip") == (
        f"error: {folder}: data.encoder of the evaluator is 'minilm' (allowed: 'clip', as in {tmp_path / 'clip'})"
    )


def test_an_evaluator_that_reads_words_is_checked_whatever_encoder_the_data_set_is_of(shards, tmp_path):
    folder = words_evaluator(tmp_path / "judge", encoder="clip")
    results = measured(folder, shards, overrides={"evaluation.pool": 6, "evaluation.replications": 1})
    assert results.about["scales"] == {"fid": 1, "diversity": 1, "multimodality": 1}

    plan = CheckRecordedRequest(folder, shards, Site("sqlite:///nowhere.db")).checked()
    (tmp_path / "parts").mkdir()
    runner, data = RecordedRunner(plan.spec, tmp_path / "parts"), DatasetFolder.open(shards)
    job = next(job for job in runner.jobs if job.purpose == "captions")
    runner.run(job)
    networks = Evaluator.load(folder)
    words = networks.words([tagged_words(data.caption(sample.caption).text) for sample in job.samples])
    assert (words.word_BK > 2).any()
    with torch.no_grad():
        expected = networks.embed_text(words).numpy()
    np.testing.assert_allclose(read_parts(tmp_path / "parts", [job])[job.name]["text"], expected, atol=1e-6)


def test_a_data_set_of_another_skeleton_is_refused(shards, tmp_path):
    folder = words_evaluator(tmp_path / "judge", skeleton="humanml22")
    with pytest.raises(UserError) as caught:
        CheckRecordedRequest(folder, shards, Site("sqlite:///nowhere.db")).checked()
    assert str(caught.value) == (
        f"{folder}: data.skeleton of the evaluator is 'humanml22' (allowed: 'smpl22', as in {shards})"
    )
