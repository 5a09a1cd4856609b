"""The jobs of an evaluation, done in this process."""

from pathlib import Path

import pytest

from intermoe.evaluation.runner import EvaluationSpec, JobRunner


def with_jobs_done(spec: EvaluationSpec, folder: Path) -> JobRunner:
    """A runner whose jobs are done, their parts in an existing folder; a text encoder that is loaded fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("model", "evaluation.runner"):
            patch.setattr(f"intermoe.{module}.load_encoder", lambda *_: pytest.fail("a text encoder is loaded"))
        runner = JobRunner(spec, folder)
        for job in runner.jobs:
            runner.run(job)
    return runner
