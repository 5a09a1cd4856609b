"""The request for an evaluation and its check; needs no Ray and writes nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intermoe import checkpoint
from intermoe.data.shards import DatasetFolder
from intermoe.diffusion.schedule import SAMPLING
from intermoe.errors import UserError
from intermoe.evaluation.protocol import ROWS, SOURCES, EvaluationJob, Row
from intermoe.evaluation.runner import EvaluationSpec
from intermoe.files import check_free, read_note, sha256
from intermoe.locks import check_unlocked
from intermoe.model import InterMoE
from intermoe.model_config import trained_folder
from intermoe.places import Place, absolute, as_place, check_storage
from pipelines import settings
from pipelines.evaluate.judge import Judge, check_reads
from pipelines.evaluate.results import RESULTS
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.label import RunLabel
from pipelines.tracking.queries import model_folder, names_run, trained_on
from pipelines.train.run_folder import run_note

PLAN = "plan.json"
"""Name of the note in the folder of what is done already (``partial_folder``)."""


@dataclass(frozen=True)
class EvaluateRequest:
    """A model to evaluate.

    Attributes:
        model: run or checkpoint of a denoiser, or the id of its MLflow run.
        out: the folder of the results; must not exist, or be empty.
        site: where things lie.
        dataset: folder of shards; that which the model was trained on if None.
        evaluator: run or checkpoint of an evaluator, or the id of its run; ``runs/NAME/evaluator`` if None.
        overrides: values by their keys for the settings that are stored with the model, of ``evaluation``,
            ``workers`` and sampling (``intermoe.diffusion.schedule.SAMPLING``).
        split: whose recordings and captions are used.
        rows: which rows of the table are made.
        seed: of all that is drawn.
        guidance: scale of classifier-free guidance; the model's own if None.
        label: of a new run in MLflow.
        run_id: the MLflow run to record in; a new one if None.
        run_folder: the folder of that run; of a new one, ``out``.
        step: of what is measured in that run's curves: how many evaluations it had before.
    """

    model: str | Place
    out: Place
    site: Site
    dataset: Place | None = None
    evaluator: str | Place | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    rows: tuple[Row, ...] = ROWS
    seed: int = 0
    guidance: float | None = None
    label: RunLabel = field(default_factory=RunLabel)
    run_id: str | None = None
    run_folder: Place | None = None
    step: int = 0

    def checked(self) -> "EvaluationPlan":
        """The plan of the evaluation, if it can be made.

        Raises:
            UserError: something is missing, or does not fit together.
        """
        check_storage(self.out)
        check_unlocked(self.out)
        check_out(self.out)
        if self.seed < 0:
            raise UserError(f"seed {self.seed}", allowed="0 or more")
        uri = self.site.tracking_uri
        folder = trained_folder(model_folder(self.model, uri)).resolve()
        model = InterMoE.load(folder)
        stored = checkpoint.documents(folder)["config"]
        settings.check_of_trained(self.overrides)
        overrides = dict(self.overrides)
        if self.guidance is not None:
            overrides["diffusion.guidance"] = self.guidance
        values = settings.overridden(stored, overrides, where=folder)
        note = run_note(folder.parent)
        if names_run(self.model):
            note = {"run_id": str(self.model), "data": trained_on(str(self.model), uri)}
        dataset = self.dataset or (as_place(note["data"]) if note.get("data") else None)
        if dataset is None:
            raise UserError("it is not noted which data the model was trained on", where=folder, allowed="--data DIR")
        data = DatasetFolder.open(dataset)
        evaluator = self.evaluator or Path("runs") / values.name / "evaluator"
        # Without a VAE, what is reconstructed is the recording.
        rows = tuple(row for row in self.rows if model.config.has_vae or SOURCES[row][0] != "reconstructed")
        check_reads(data, model.config.data, who="model", where=folder)
        judge = Judge.load(evaluator, data, self.site)
        text_folder, max_frames = self.site.text_folder, model.config.data.max_frames
        spec = EvaluationSpec(
            model=str(folder),
            evaluator=str(judge.folder),
            dataset=str(data.path),
            split=self.split,
            config=values.evaluation,
            rows=rows,
            seed=self.seed,
            diffusion=values.diffusion,
            text_folder=str(text_folder) if text_folder else None,
            threads=values.workers.cpus,
            model_seed=values.seed,
        )
        about = {
            "name": values.name,
            "model": str(folder),
            "model_sha256": sha256(folder / checkpoint.MANIFEST),
            **judge.about(data, self.split, values.evaluation, max_frames),
            "seed": self.seed,
            **{key: values.diffusion.model_dump(mode="json")[key] for key in SAMPLING},
            "threads": values.workers.cpus,
            "rows": list(rows),
        }
        jobs = spec.jobs(max_frames, judge.evaluator.data.persons)
        return EvaluationPlan(self, spec, values, jobs, about, note.get("run_id"))


def partial_folder(out: Place) -> Place:
    """Where an evaluation keeps what it has done, until all of it is in its folder and in MLflow."""
    return absolute(out).with_name(f".{absolute(out).name}.partial")


def check_out(out: Place) -> None:
    """Raise ``UserError`` where the folder of results is taken, unless by an evaluation that was killed at its end."""
    run = read_note(partial_folder(out) / PLAN).get("run_id")
    # Damaged results, or somebody else's, are no reason to go on.
    with suppress(UserError):
        if run is not None and read_note(out / RESULTS).get("about", {}).get("run") == run:
            return
    check_free(out, "another --out")


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation that can be made.

    Attributes:
        request: what was asked for.
        spec: what each worker needs to know.
        settings: of the model, with the request's overrides.
        jobs: what there is to compute.
        about: what the results say of themselves.
        model_run: the MLflow run of the model, where it is known.
    """

    request: EvaluateRequest
    spec: EvaluationSpec
    settings: Settings
    jobs: Sequence[EvaluationJob]
    about: Mapping[str, Any]
    model_run: str | None
