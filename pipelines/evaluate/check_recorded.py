"""``intermoe evaluate --check-recorded``: recorded motion alone, before any model's number counts.

It needs neither a model nor Ray nor MLflow, and runs in this process: a check is to be made often.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from intermoe.data.shards import DatasetFolder
from intermoe.diffusion.schedule import DiffusionConfig
from intermoe.errors import UserError
from intermoe.evaluation.protocol import EvaluationConfig, EvaluationJob
from intermoe.evaluation.runner import EvaluationSpec, RecordedRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.files import check_free
from intermoe.generation import best_device
from intermoe.places import Place, check_storage
from pipelines import settings
from pipelines.cluster.progress import ProgressCallback, Stages
from pipelines.evaluate.judge import Judge
from pipelines.evaluate.results import Results, publish
from pipelines.site import Site


def command(options: argparse.Namespace) -> None:
    """Check an evaluator as the command line asks, and print the table.

    Raises:
        UserError: what is asked for cannot be done, or recorded motion is outside of the evaluator's known row.
    """
    plan = CheckRecordedRequest.of(options).checked()
    with Stages() as stages:
        results = check_recorded(plan, progress=stages)
    Console().print(checked_table(plan, results))
    require_as_known(plan, results)


@dataclass(frozen=True)
class CheckRecordedRequest:
    """An evaluator to check on recorded motion.

    Attributes:
        evaluator: its run or checkpoint, or the id of its run.
        dataset: folder of shards.
        site: where things lie.
        out: the folder of the results, which must not exist, or be empty; none is written if None.
        overrides: values by their keys for the evaluator's own protocol, ``evaluation.*``.
        split: whose recordings and captions are used.
        seed: of all that is drawn.
    """

    evaluator: str | Place
    dataset: Place
    site: Site
    out: Place | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    seed: int = 0

    @classmethod
    def of(cls, options: argparse.Namespace) -> "CheckRecordedRequest":
        """What the command line asks for."""
        return cls(
            options.evaluator,
            options.data,
            Site.here(options.text_folder),
            out=options.out,
            overrides=settings.parse_overrides(options.overrides),
            split=options.split,
            seed=options.seed,
        )

    def checked(self) -> "CheckRecordedPlan":
        """The plan of the check, if it can be made.

        Raises:
            UserError: something is missing, or does not fit together.
        """
        if self.out is not None:
            check_storage(self.out)
            check_free(self.out, "another --out")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}", allowed="0 or more")
        for key in self.overrides:
            if key.partition(".")[0] != "evaluation":
                raise UserError(f"{key} is nothing to recorded motion", allowed="evaluation.*")
        data = DatasetFolder.open(self.dataset)
        judge = Judge.load(self.evaluator, data, self.site)
        config = judge.protocol(self.overrides)
        text_folder, max_frames = self.site.text_folder, judge.evaluator.data.max_frames
        spec = EvaluationSpec(
            model=None,
            evaluator=str(judge.folder),
            dataset=str(data.path),
            split=self.split,
            config=config,
            rows=("recorded",),
            seed=self.seed,
            diffusion=DiffusionConfig(),
            text_folder=str(text_folder) if text_folder else None,
            threads=torch.get_num_threads(),
            model_seed=0,
        )
        about = {
            "name": str(judge.stored.get("name", "evaluator")),
            **judge.about(data, self.split, config, max_frames),
            "seed": self.seed,
            "threads": spec.threads,
            "rows": ["recorded"],
        }
        jobs = spec.jobs(max_frames, judge.evaluator.data.persons)
        known = judge.evaluator.config.conventions.known_row
        others = None if about["known_row"] or not known else f"{known.dataset}, {known.skeleton}, {known.split} split"
        return CheckRecordedPlan(self, spec, config, jobs, about, others)


@dataclass(frozen=True)
class CheckRecordedPlan:
    """A check that can be made.

    Attributes:
        request: what was asked for.
        spec: what is measured.
        config: the protocol.
        jobs: what there is to compute.
        about: what the results say of themselves.
        known_of: which recordings the evaluator's known row is of, where it is of others than these.
    """

    request: CheckRecordedRequest
    spec: EvaluationSpec
    config: EvaluationConfig
    jobs: Sequence[EvaluationJob]
    about: Mapping[str, Any]
    known_of: str | None


def check_recorded(plan: CheckRecordedPlan, *, progress: ProgressCallback) -> Results:
    """Measure recorded motion, and write the results where they are asked for (see ``publish``).

    Args:
        plan: from :meth:`CheckRecordedRequest.checked`.
        progress: called with a stage, how much of it is done, and of how much.
    """
    total, done = sum(len(job.samples) for job in plan.jobs), 0
    progress("recorded", done, total)
    with tempfile.TemporaryDirectory(prefix="intermoe-check-") as folder:
        runner = RecordedRunner(plan.spec, Path(folder), device=str(best_device()))
        for job in runner.jobs:
            runner.run(job)
            done += len(job.samples)
            progress("recorded", done, total)
        values = score(
            runner.folder,
            plan.config,
            plan.jobs,
            read_parts(Path(folder), plan.jobs),
            seed=plan.request.seed,
            split=plan.request.split,
            scales=runner.evaluator.config.conventions.scales,
        )
    results = Results(values=values, about=plan.about)
    if plan.request.out is not None:
        publish(results, plan.request.out)
    return results


def checked_table(plan: CheckRecordedPlan, results: Results) -> Table:
    """The table for people at a terminal: each measure of recorded motion, what is known of it, and the verdict."""
    cells = results.recorded.cells
    table = Table("")
    for heading in cells:
        table.add_column(str(heading), justify="right")
    for measure, line in cells.iterrows():
        table.add_row(str(measure), *line)
    known, data = results.recorded.known, plan.about["data"]
    if known:
        lines = [f"Known, {known.origin}: {known.source}."]
    elif plan.known_of:
        lines = [f"The evaluator's known row is of other recordings ({plan.known_of}) than those of {data}."]
    else:
        lines = ["The evaluator has no known row of recorded motion: this is its row here."]
    table.caption_justify = "left"
    table.caption = escape("\n".join([*lines, *results.recorded.warnings()]))
    return table


def require_as_known(plan: CheckRecordedPlan, results: Results) -> None:
    """Raise ``UserError`` where recorded motion is outside of the evaluator's known row; nothing where none is known.

    It names the first such measure, its value, its range and where that is from.
    """
    recorded = results.recorded
    if not recorded.known or not recorded.outside:
        return
    first, *rest = recorded.outside
    more = f"; outside of their range too: {', '.join(verdict.measure for verdict in rest)}" if rest else ""
    raise UserError(
        f"{first.measure} of recorded motion is {first.value:.4f}{more}",
        where=plan.spec.evaluator,
        allowed=f"{first.low:g} to {first.high:g}, {recorded.known.origin}: {recorded.known.source}",
    )
