"""A Ray actor that computes an evaluation's jobs: a thin shell around intermoe/evaluation/runner.py."""

import time
from typing import Any

import torch
from numpy.typing import NDArray

from intermoe.errors import UserError
from intermoe.evaluation.runner import EvaluationSpec, JobRunner
from intermoe.places import as_place


class EvaluationActor:
    """Computes jobs by their numbers, in Ray Data's form of calling."""

    def __init__(self, spec: EvaluationSpec, parts: str, *, gpu: bool) -> None:
        """Load the networks.

        Args:
            spec: what is evaluated.
            parts: folder of the jobs' files, on storage that all nodes share.
            gpu: whether to compute on a GPU.
        """
        torch.set_num_threads(spec.threads)
        self._runner = JobRunner(spec, as_place(parts), device="cuda" if gpu else "cpu")

    def __call__(self, block: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """Compute the jobs of a block.

        Args:
            block: ``job``, the numbers of jobs in the plan.

        Returns:
            Of each job its number, when it ``began`` and ``ended``, and the ``error`` that a user can put right, empty
            where there was none.
        """
        answers: dict[str, list[Any]] = {"job": [], "error": [], "began": [], "ended": []}
        for number in block["job"].tolist():
            began, error = time.time(), ""
            try:
                self._runner.run(self._runner.jobs[number])
            except UserError as problem:  # as a value, since Ray wraps what is raised into errors of its own
                error = str(problem)
            for name, value in (("job", number), ("error", error), ("began", began), ("ended", time.time())):
                answers[name].append(value)
        return answers
