"""What is looked at before a sweep begins, what it says it would do, what is noted; test_sweep.py has whole sweeps."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console
from small_model import save_model
from toy_shards import write_shards
from trials import make_trial

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.datasets.duet import write_duet
from intermoe.errors import UserError
from intermoe.files import digest, discard, read_note, sha256, write_note
from intermoe.locks import locked
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from pipelines.settings import Settings, parse_overrides
from pipelines.site import Site
from pipelines.sweep.config import AshaConfig
from pipelines.sweep.file import SweepPlan
from pipelines.sweep.file import load as load_sweep
from pipelines.sweep.prerequisites import make_network, make_shared, shards_folder, vae_settings
from pipelines.sweep.request import SWEEP_NOTE, SweepRequest, sweep_note
from pipelines.sweep.sweep import _finished, _NoteEnds, plan_table, sweep
from pipelines.sweep.trial import FAILED, OUTCOME, STOPPED, mark_done, seconds
from pipelines.tracking.runs import Run
from pipelines.tracking.sync import deliver_left
from pipelines.train.request import TrainRequest
from pipelines.train.run_folder import resumable_step

SMOKE = Path(__file__).resolve().parents[3] / "sweeps" / "smoke.yaml"


def load(folder: Path, *words: str, **data: object) -> SweepPlan:
    """smoke.yaml with other recordings."""
    values = yaml.safe_load(SMOKE.read_text())
    values["profiles"]["tiny"]["data"].update(data)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load_sweep(folder / "sweep.yaml", parse_overrides(words))


def request_of(plan: SweepPlan, out: Path, *, resume: bool = False) -> SweepRequest:
    return SweepRequest(plan, out, Site("sqlite:///nowhere.db"), resume=resume)


def steps(plan: SweepPlan) -> list[str]:
    console = Console(width=120, record=True, quiet=True)
    (column,) = (column for column in plan_table(plan).columns if column.header == "steps")
    console.print(plan_table(plan))
    return [str(cell) for cell in column.cells]


def test_the_plan_counts_steps_as_far_as_the_recordings_are_known(tmp_path):
    assert steps(load(tmp_path)) == ["29", "29", "29"]  # 6 epochs of 0.8 * 48 recordings by 8
    missing = load(tmp_path, format="interhuman", root=str(tmp_path / "raw"))
    assert steps(missing) == ["?", "?", "?"]
    write_duet(tmp_path / "raw", count=20, seed=0)
    trained = len((tmp_path / "raw/split/train.txt").read_text().split())
    assert steps(missing) == [str(-(-6 * trained // 8))] * 3


def test_recordings_that_are_missing_are_told_before_anything_is_written(tmp_path):
    found = load(tmp_path, format="interhuman", root=str(tmp_path / "raw"))
    with pytest.raises(UserError, match="raw"):
        request_of(found, tmp_path / "out").checked()
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
    write_duet(tmp_path / "raw", count=10, seed=0)
    request_of(found, tmp_path / "out").checked()


def test_a_folder_that_is_taken_or_holds_no_sweep_is_refused(tmp_path):
    found = load_sweep(SMOKE)
    with pytest.raises(UserError, match="holds no sweep to resume"):
        request_of(found, tmp_path, resume=True).checked()
    # What a killed process left of its first note is nobody's work.
    (tmp_path / f".{SWEEP_NOTE}").write_text("{")
    request_of(found, tmp_path).checked()
    write_note(
        tmp_path / SWEEP_NOTE,
        {"name": "smoke", "profile": "tiny", "overrides": {"moe.sigma": 0.1}, "tracking_uri": "a"},
    )
    request_of(found, tmp_path, resume=True).checked()
    assert sweep_note(tmp_path)["overrides"] == {"moe.sigma": 0.1}
    assert sweep_note(tmp_path / "none") == {}
    with pytest.raises(UserError, match=r"exists already and is not overwritten \(allowed: another --out, or --resume"):
        request_of(found, tmp_path).checked()
    for note, message in (
        ({"name": "other", "profile": "tiny"}, "name 'smoke' (allowed: 'other', as in the sweep that is resumed)"),
        ({"name": "smoke", "profile": "paper"}, "profile 'tiny' (allowed: 'paper', as in the sweep"),
    ):
        write_note(tmp_path / SWEEP_NOTE, note)
        with pytest.raises(UserError) as caught:
            request_of(found, tmp_path, resume=True).checked()
        assert message in str(caught.value)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        request_of(load_sweep(SMOKE), tmp_path / "file").checked()
    with pytest.raises(UserError, match="cannot be written"):
        sweep(request_of(load_sweep(SMOKE), tmp_path / "file" / "out").checked())


def test_two_processes_do_not_run_one_sweep(tmp_path):
    request = request_of(load_sweep(SMOKE), tmp_path / "sweep").checked()
    with locked(request.out):
        for begin in (request.checked, partial(sweep, request)):
            with pytest.raises(UserError, match="is at work here"):
                begin()
    assert list(tmp_path.iterdir()) == []


class Stopped:
    """Of a trial of Tune, what its callbacks look at."""

    def __init__(self, key: str, error: str | None = None) -> None:
        self.config, self.last_result, self._error = {"trial": key}, {"step": 8}, error

    def get_error(self) -> str | None:
        return self._error


def test_a_trial_that_is_stopped_or_fails_is_noted_at_once(tmp_path, store):
    run = Run.start(store, "tests", "slow", params={})
    (tmp_path / "denoiser").mkdir()
    write_note(tmp_path / "denoiser/run.json", {"run_id": run.id})
    request = make_trial(tmp_path, "slow-seed0", site=Site(store))
    ends = _NoteEnds({"k": request})
    ends.on_trial_error(3, [], Stopped("k", "Traceback\n  File\nOSError: no space left\n"))
    assert read_note(tmp_path / FAILED) == {"reason": "OSError: no space left"}
    ends.on_trial_complete(3, [], Stopped("k"))
    assert read_note(tmp_path / STOPPED) == {"step": 8}
    # As a sweep does at its end.
    deliver_left(tmp_path, store)
    found = MlflowClient(store).get_run(run.id)
    assert found.info.status == "KILLED"
    assert found.data.tags["intermoe.stopped"] == "behind the others at step 8"
    # One that came to its end was not stopped. Without ASHA, what it stopped is asked for again.
    plain = load_sweep(SMOKE)
    with_asha = replace(plain, profile=plain.profile.model_copy(update={"asha": AshaConfig(grace_steps=1)}))
    assert _finished(request, with_asha)
    assert not _finished(request, plain)
    (tmp_path / STOPPED).unlink()
    write_note(tmp_path / OUTCOME, {"evaluation": request.evaluation})
    ends.on_trial_complete(3, [], Stopped("k"))
    assert not (tmp_path / STOPPED).exists()
    assert _finished(request, plain)
    # It is evaluated otherwise now.
    assert not _finished(replace(request, evaluator=Path("evaluator-2")), plain)


def test_an_evaluator_of_other_conventions_is_another_one_and_those_of_older_sweeps_stay(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("pipelines.sweep.prerequisites.train_to_the_end", lambda request: trained.append(request.out))
    write_shards(tmp_path / "data", {"train": 1})
    base, parent = load(tmp_path).base, SimpleNamespace(id="x")
    scaled = load(tmp_path, "evaluator.conventions.scales.fid=1").base
    made, other = (
        make_network("evaluator", settings, tmp_path / "data", Site("nowhere"), parent)  # type: ignore[arg-type]
        for settings in (base, scaled)
    )
    assert trained == [made, other]
    assert made != other
    values = base.model_dump(mode="json")
    of_older = {name: value for name, value in values["evaluator"].items() if name != "conventions"}
    of_card = sha256(tmp_path / "data" / CARD)
    parts = [of_card, 0, values["data"], of_older, values["train"]["evaluator"], values["evaluation"]["pool"]]
    assert made.name == f"evaluator-{digest(parts)}"


@pytest.mark.parametrize("profile", ["solo", "paper"])
def test_vaes_of_each_kind_are_trained_for_themselves(tmp_path, monkeypatch, profile):
    """Those of a network with experts and without are one, and each is of settings that a checkpoint can hold."""
    asked: list[TrainRequest] = []
    monkeypatch.setattr("pipelines.sweep.prerequisites.train_to_the_end", asked.append)
    write_shards(tmp_path / "data", {"train": 1})
    found = load_sweep(SMOKE.with_name("table6.yaml"), {"profile": profile})
    trials = {trial.name: trial.settings for trial in found.trials if trial.seed == 0 and trial.settings.has_vae}
    parent = SimpleNamespace(id="x")
    made = {
        name: make_network("vae", vae_settings(found.base, trial), tmp_path / "data", Site("nowhere"), parent)  # type: ignore[arg-type]
        for name, trial in trials.items()
    }
    assert made["mld-seed0"] == made["mld-ours-seed0"] != made["salad-seed0"] == made["salad-ours-seed0"]
    for request in asked:
        assert Settings.parse(request.settings.model_dump(mode="json")) == request.settings


@pytest.mark.slow
def test_what_is_shared_is_made_once_and_gone_on_with_when_the_rest_of_the_file_has_changed(shards, store, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(shards, copy)
    often = ("train.vae.checkpoint_every=1", "train.vae.epochs=0.4")
    found = load(tmp_path, *often)
    with Run.start(store, "tests", "sweep", params={}) as parent:
        made = make_network("vae", found.base, copy, Site(store), parent)
        note = made.with_name(f"{made.name}.done")
        when = note.stat().st_mtime_ns
        assert make_network("vae", found.base, copy, Site(store), parent) == made
        assert note.stat().st_mtime_ns == when
        # As if the process had been killed before the last step.
        expected = checkpoint.load(made / "best")
        note.unlink()
        discard(made / "best")
        discard(checkpoint.step_folder(made / "checkpoints", resumable_step(made)))
        assert 0 < resumable_step(made) < expected.documents["state"]["step"]
        changed = load(
            tmp_path, *often, "train.denoiser.epochs=3", "moe.sigma=0.005", "evaluation.pool=3", "name=other"
        )
        assert changed.base.model_dump() != found.base.model_dump()
        assert make_network("vae", changed.base, copy, Site(store), parent) == made
        assert note.is_file()
        resumed = checkpoint.load(made / "best")
        assert resumed.documents["state"] == expected.documents["state"]
        assert all(resumed.tensors["vae"][name].equal(tensor) for name, tensor in expected.tensors["vae"].items())
    (run,) = (json.loads(file.read_text())["run_id"] for file in tmp_path.glob("vae-*/run.json"))
    tags = MlflowClient(store).get_run(run).data.tags
    assert tags["intermoe.sweep"] == parent.id
    assert seconds(made) > 0


def test_points_that_train_the_vae_alike_share_it(shards, store, tmp_path, monkeypatch):
    values = yaml.safe_load(SMOKE.read_text())
    values["points"] += [
        {"name": "persons", "set": {"data.persons": "drawn"}},
        {"name": "wider", "set": {"vae.latent": 8}},
        {"name": "calmer", "set": {"train.vae.loss.displacement": 2}},
    ]
    values["profiles"]["tiny"]["seeds"] = [0, 1]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    plan = load_sweep(tmp_path / "sweep.yaml", parse_overrides(["evaluation.pool=2"]))
    shutil.copytree(shards, str(shards_folder(plan, tmp_path)))
    trained = []

    def stand_in(request):
        trained.append(request)
        mark_done(request.out)

    monkeypatch.setattr("pipelines.sweep.prerequisites.train_to_the_end", stand_in)
    with Run.start(store, "tests", "sweep", params={}) as parent:
        made = make_shared(plan, tmp_path, Site(store), parent)
    assert [request.target for request in trained] == ["vae", "vae", "vae", "evaluator"]
    common, wider, calmer = (request.settings for request in trained[:3])
    assert common == plan.base
    assert (wider.vae.latent, wider.train, wider.moe, wider.seed) == (8, common.train, common.moe, 0)
    assert (calmer.vae, calmer.train.vae.loss.displacement, calmer.train.denoiser) == (
        common.vae,
        2,
        common.train.denoiser,
    )
    by_name = {trial.name: made.vaes[trial.key] for trial in plan.trials}
    for seed in (0, 1):
        names = ("full", "dense", "c-exp-2", "persons", "wider", "calmer")
        found = [by_name[f"{name}-seed{seed}"] for name in names]
        assert found == [trained[number].out for number in (0, 0, 0, 0, 1, 2)]
    assert made.evaluator == trained[3].out
    # A denoiser takes a VAE that was trained with other persons first.
    request = TrainRequest("denoiser", plan.base, dataset=made.shards, out=tmp_path / "denoiser", site=Site(store))
    of_persons = next(trial.settings for trial in plan.trials if trial.points == ("persons",))
    model = InterMoE.initial(ModelConfig.model_validate(plan.base.model_dump(include=set(ModelConfig.model_fields))))
    save_model(tmp_path / "vae", model)
    replace(request, settings=of_persons, vae=tmp_path / "vae").checked()


def test_shards_with_too_few_recordings_to_evaluate_are_told_before_anything_is_trained(shards, store, tmp_path):
    found = load(tmp_path, "evaluation.pool=40")
    shutil.copytree(shards, str(shards_folder(found, tmp_path)))
    with (
        Run.start(store, "tests", "sweep", params={}) as parent,
        pytest.raises(UserError, match=r"evaluation\.pool = 40 \(allowed: at most \d, the recordings of the test"),
    ):
        make_shared(found, tmp_path, Site(store), parent)
    assert not list(tmp_path.glob("shared/vae-*"))
