"""From what the jobs of an evaluation computed to every measure of every row of its table.

Legend: N samples, E embedding, C captions, S samples of a caption, K kinds of identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from intermoe.data.draws import replication_pairs
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation import measures
from intermoe.evaluation.identity import KINDS, Roles
from intermoe.evaluation.metrics import SCALES, MetricScales, random_pairs
from intermoe.evaluation.protocol import SOURCES, EvaluationConfig, EvaluationJob, EvaluationSample, Form, Purpose
from intermoe.evaluation.replication import Replication, Row

Part = Mapping[str, NDArray[np.floating | np.integer]]


def score(
    folder: DatasetFolder,
    config: EvaluationConfig,
    jobs: Sequence[EvaluationJob],
    parts: Mapping[str, Part],
    *,
    seed: int,
    split: str,
    scales: MetricScales = SCALES,
) -> pd.DataFrame:
    """Every measure of every row of the table in every replication.

    Args:
        folder: the data set.
        config: as it was planned.
        jobs: the plan.
        parts: what was computed of each job, by its name: its ``file_arrays``.
        seed: as it was planned.
        split: as it was planned.
        scales: of the evaluator's metrics (``EvaluatorConventions``).

    Returns:
        A column for each of ``MEASURES``, float64; a line for each row of the table and replication, by ``row`` in the
        order of ``ROWS`` and ``replication``. NaN where a measure is not known.
    """
    sets = _sets(jobs, parts)
    headers = folder.headers(split)
    values = {}
    for row, (purpose, form) in SOURCES.items():
        for number in range(config.replications):
            if (purpose, number) in sets and form in sets[purpose, number].results[0].job.forms:
                random = replication_pairs(seed, number)
                taken_of = _replication(
                    row, number, sets=sets, headers=headers, config=config, scales=scales, random=random
                )
                values[row, number] = [measure.value(taken_of) for measure in measures.MEASURES.values()]
    index = pd.MultiIndex.from_tuples(list(values), names=["row", "replication"])
    return pd.DataFrame(list(values.values()), index=index, columns=list(measures.MEASURES), dtype=np.float64)


def distances_from_captions(
    jobs: Sequence[EvaluationJob], parts: Mapping[str, Part], replication: int = 0
) -> list[tuple[EvaluationSample, float]]:
    """The samples of the row "generated" in a replication, and how far each is from its caption, nearest first.

    The distances are those that MM-Dist is the mean of, also where a sample is in no whole pool.
    """
    sets = _sets(jobs, parts)
    motions = sets["generated", replication]
    text_NE, motion_NE = sets["captions", replication].joined("text"), motions.joined("settled/motion")
    distance_N = np.linalg.norm(text_NE.astype(np.float64) - motion_NE, axis=-1)
    order = np.argsort(distance_N, kind="stable").tolist()
    return [(motions.results[place].sample, float(distance_N[place])) for place in order]


def _sets(jobs: Sequence[EvaluationJob], parts: Mapping[str, Part]) -> dict[tuple[Purpose, int], "_Set"]:
    """What was computed for each purpose and replication."""
    results: dict[tuple[Purpose, int], dict[int, _Result]] = {}
    for job in jobs:
        for row_in_job, (sample, uses) in enumerate(zip(job.samples, job.uses, strict=True)):
            for use in uses:
                result = _Result(job, sample, parts[job.name], row_in_job)
                results.setdefault((use.purpose, use.replication), {})[use.place] = result
    return {key: _Set([by_place[place] for place in sorted(by_place)]) for key, by_place in results.items()}


class _Result(NamedTuple):
    """A sample in a job, and its row in what the job computed."""

    job: EvaluationJob
    sample: EvaluationSample
    part: Part
    row: int


@dataclass(frozen=True)
class _Set:
    """The results of one purpose and replication, in the order that was drawn."""

    results: Sequence[_Result]

    def joined(self, name: str) -> NDArray[Any]:
        """An array of the jobs' files over all samples."""
        return np.stack([result.part[name][result.row] for result in self.results])

    def roles(self, form: Form, headers: Sequence[RecordingHeader]) -> Roles | None:
        """Who acts and who should; None where the data set does not say."""
        if not self.results[0].job.tells_roles:
            return None
        samples = [result.sample for result in self.results]
        labels = [headers[sample.row].label for sample in samples]
        pairs = zip(samples, labels, strict=True)
        return Roles(
            actor_NK=self.joined(f"{form}/actor"),
            kind_N=np.array([KINDS.index(str(label["kind"])) for label in labels]),
            named_N=np.array([int(label["actor"]) ^ sample.drawn.swap for sample, label in pairs]),
        )


def _replication(
    row: Row,
    number: int,
    *,
    sets: Mapping[tuple[Purpose, int], _Set],
    headers: Sequence[RecordingHeader],
    config: EvaluationConfig,
    scales: MetricScales,
    random: np.random.Generator,
) -> Replication:
    purpose, form = SOURCES[row]
    motions, few = sets[purpose, number], config.multimodality
    many = sets.get(("multimodality", number)) if purpose == "generated" else None
    exchanged = sets.get(("swapped", number)) if purpose == "generated" else None
    motion_NE = motions.joined(f"{form}/motion")
    # The order of the two decides what they draw.
    diversity_pairs = random_pairs(random, len(motion_NE), config.diversity_pairs)
    multimodality_pairs = random_pairs(random, few.samples, few.pairs)
    return Replication(
        row=row,
        text_NE=sets["captions", number].joined("text"),
        motion_NE=motion_NE,
        reference_NE=sets["reference", number].joined("recorded/motion"),
        pool=config.pool,
        diversity_pairs=diversity_pairs,
        of_motions={name: motions.joined(f"{form}/{name}") for name in measures.of_each_motion()},
        multimodality_pairs=multimodality_pairs,
        many_CSE=many.joined(f"{form}/motion").reshape(-1, few.samples, motion_NE.shape[1]) if many else None,
        roles=motions.roles(form, headers),
        exchanged_roles=exchanged.roles(form, headers) if exchanged else None,
        scales=scales,
    )
