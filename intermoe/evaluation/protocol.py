"""The protocol of evaluation: what each replication draws, and what becomes of the embeddings.

All that is drawn (captions, crops, which person is first, the order of the pools, noise) is a function of one seed, the
replication and the recording's id. A plan falls into jobs of fixed samples: who computes which job changes nothing.

Legend: N samples, E embedding, C captions, S samples of a caption, K kinds of identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from intermoe.config import Config
from intermoe.data.batches import crop_bounds
from intermoe.data.draws import Draw, draw
from intermoe.data.shards import DatasetFolder, MotionRow
from intermoe.errors import UserError
from intermoe.evaluation.identity import KINDS
from intermoe.evaluation.metrics import TOP, diversity, fid, matching, multimodality, random_pairs
from intermoe.evaluation.plausibility import MEASURES as PLAUSIBILITY
from intermoe.text.captions import Persons

Row = Literal["real", "generated", "untrained"]
ROWS: tuple[Row, ...] = ("real", "generated", "untrained")
# What a job makes: "reference" are the real motions that FIDs are distances to, "swapped" are motions from captions
# that name the persons the other way round, "multimodality" many motions of few captions.
Purpose = Literal["reference", "real", "generated", "untrained", "swapped", "multimodality"]
GENERATING: tuple[Purpose, ...] = ("generated", "untrained", "swapped", "multimodality")

_NONE = np.empty(0, np.float32)

Part = Mapping[str, NDArray[np.floating | np.integer]]


class MultimodalityConfig(Config):
    """MultiModality, the variety of the motions of one caption; 0 captions leave it out.

    Attributes:
        captions: how many captions a replication draws.
        samples: motions of each.
        pairs: random pairs of them.
    """

    captions: int = Field(default=100, ge=0)
    samples: int = Field(default=30, ge=2)
    pairs: int = Field(default=10, ge=1)


class EvaluationConfig(Config):
    """How a model is evaluated; the defaults are those of the literature.

    Attributes:
        replications: how often everything is drawn anew.
        pool: pairs of caption and motion among which R-precision looks for the own one.
        diversity_pairs: random pairs of motions, or as many as there are motions.
        multimodality: see there.
        batch_size: motions that are generated at a time.
    """

    replications: int = Field(default=20, ge=1)
    pool: int = Field(default=96, ge=2)
    diversity_pairs: int = Field(default=300, ge=1)
    multimodality: MultimodalityConfig = MultimodalityConfig()
    batch_size: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class Sample:
    """One motion to look at or to make.

    Attributes:
        row: of the recording in the split.
        caption: row of the text it is made from or described by.
        drawn: crop and person swap of the recording; its seed is that of the noise.
        frames: frames of features.
    """

    row: int
    caption: int
    drawn: Draw
    frames: int


@dataclass(frozen=True)
class Job:
    """Samples of one replication that are computed together; ``first`` is the place of the first among its like."""

    purpose: Purpose
    replication: int
    first: int
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """What names the job."""
        return f"{self.purpose}-{self.replication:03d}-{self.first:06d}"


def plan(
    folder: DatasetFolder,
    config: EvaluationConfig,
    *,
    seed: int,
    max_frames: int,
    persons: Persons = "drawn",
    rows: Sequence[Row] = ROWS,
    split: str = "test",
) -> list[Job]:
    """All jobs of an evaluation, those that take longest first.

    Args:
        folder: the data set.
        config: how to evaluate.
        seed: of all that is drawn.
        max_frames: longer recordings are cropped.
        persons: which person of a recording is the first, as the evaluator knows it (see ``DataConfig``).
        rows: which rows of the table are wanted.
        split: whose recordings and captions are used.

    Raises:
        UserError: the split is empty, or has fewer recordings than a pool.
    """
    count = check_split(folder, config, split)
    index = folder.index(split)
    recordings = [_without_motion(folder.recording(split, row)) for row in range(count)]

    def sample(replication: int, purpose: str, row: int) -> Sample:
        drawn = replace(draw(seed, replication, f"{purpose}/{recordings[row].id}"), mirror=False)
        if persons == "named":
            drawn = folder.in_named_order(recordings[row], drawn)
        start, end = crop_bounds(int(index.frames[row]), max_frames, drawn)
        return Sample(row, recordings[row].caption(drawn), drawn, end - start - 1)

    def named_otherwise(one: Sample) -> Sample:
        drawn = replace(one.drawn, swap=not one.drawn.swap)
        return replace(one, caption=recordings[one.row].caption(drawn), drawn=drawn)

    def again(one: Sample, number: int) -> Sample:
        noise = draw(seed, number, f"{one.drawn.seed}").seed
        return replace(one, drawn=replace(one.drawn, seed=noise))

    jobs = []
    for replication in range(config.replications):
        order = np.random.default_rng([seed, replication]).permutation(count).tolist()
        pairs = [sample(replication, "pairs", row) for row in order]
        sets: dict[Purpose, list[Sample]] = {
            "reference": [sample(replication, "reference", row) for row in order],
            **{row: pairs for row in rows if row != "untrained" or replication < untrained_replications(config)},
        }
        if "generated" in rows:
            few = config.multimodality
            chosen = [sample(replication, "multimodality", row) for row in order[: few.captions]]
            sets["multimodality"] = [again(one, number) for one in chosen for number in range(few.samples)]
            if replication == 0 and identity_is_known(folder, split):
                sets["swapped"] = [named_otherwise(one) for one in pairs]
        jobs += [
            Job(purpose, replication, start, tuple(samples[start : start + config.batch_size]))
            for purpose, samples in sets.items()
            for start in range(0, len(samples), config.batch_size)
        ]
    return sorted(jobs, key=lambda job: job.purpose not in GENERATING)


def check_split(folder: DatasetFolder, config: EvaluationConfig, split: str) -> int:
    """The number of recordings of a split, after a look whether they fill a pool.

    Raises:
        UserError: they do not.
    """
    count = len(folder.index(split).ids) if split in folder.card.recordings else 0
    if not count:
        raise UserError(f"the {split} split is empty", where=folder.path)
    if count < config.pool:
        raise UserError(
            f"evaluation.pool = {config.pool}",
            where=folder.path,
            allowed=f"at most {count}, the recordings of the {split} split",
        )
    return count


def untrained_replications(config: EvaluationConfig) -> int:
    """How many replications the untrained row takes: a quarter tells enough of what has learned nothing."""
    return max(1, config.replications // 4)


def _without_motion(recording: MotionRow) -> MotionRow:
    """The recording's names and captions; its motion, of which a data set may hold gigabytes, is not kept."""
    return replace(recording, position_TPJ3=_NONE, rotation_TPR6=_NONE)


def identity_is_known(folder: DatasetFolder, split: str) -> bool:
    """Whether the recordings say which kind of interaction they are and who acts, as Duet's do."""
    label = folder.recording(split, 0).label
    return label.get("kind") in KINDS and label.get("actor") in (0, 1)


def score(
    folder: DatasetFolder,
    config: EvaluationConfig,
    jobs: Sequence[Job],
    parts: Mapping[str, Part],
    *,
    seed: int,
    split: str,
) -> dict[Row, dict[str, list[float]]]:
    """Every measure of every row of the table, one value a replication.

    Args:
        folder: the data set.
        config: as it was planned.
        jobs: the plan.
        parts: what was computed of each job, by its name: ``motion`` embeddings [N, E] and, of jobs that make a row,
            ``text`` embeddings [N, E], ``actor`` [N, K] (see identity.py) and each measure of plausibility.py [N].
        seed: as it was planned.
        split: as it was planned.

    Returns:
        Row -> measure -> values; what was not asked for or is not known is left out.
    """
    known = identity_is_known(folder, split)
    labels = [folder.recording(split, row).label for row in range(len(folder.index(split).ids))] if known else []
    by_set: dict[tuple[Purpose, int], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.first):
        by_set.setdefault((job.purpose, job.replication), []).append(job)

    def joined(purpose: Purpose, replication: int, name: str) -> NDArray[np.floating]:
        return np.concatenate([parts[job.name][name] for job in by_set[purpose, replication]])

    def identity(purpose: Purpose, replication: int, shift: int = 0) -> float:
        """Share of motions in which the person acts whom the caption of the shift-th next sample names."""
        samples = [sample for job in by_set[purpose, replication] for sample in job.samples]
        kind_N = np.roll([KINDS.index(str(labels[sample.row]["kind"])) for sample in samples], -shift)
        named_N = [int(labels[sample.row]["actor"]) ^ sample.drawn.swap for sample in samples]
        actor_NK = joined(purpose, replication, "actor")
        return float((actor_NK[np.arange(len(samples)), kind_N] == np.roll(named_N, -shift)).mean())

    found: dict[Row, dict[str, list[float]]] = {}
    for row, replication in sorted((purpose, number) for purpose, number in by_set if purpose in ROWS):
        values = found.setdefault(row, {})
        random = np.random.default_rng([seed, replication, 1])
        text_NE, motion_NE = joined(row, replication, "text"), joined(row, replication, "motion")
        precision_3, distance = matching(text_NE, motion_NE, config.pool)
        now = {f"r_precision_top{top + 1}": float(precision_3[top]) for top in range(TOP)}
        now["fid"] = fid(motion_NE, joined("reference", replication, "motion"))
        now["mm_dist"] = distance
        now["diversity"] = diversity(motion_NE, random_pairs(random, len(motion_NE), config.diversity_pairs))
        if row == "generated" and config.multimodality.captions:
            many_CSE = joined("multimodality", replication, "motion")
            many_CSE = many_CSE.reshape(-1, config.multimodality.samples, many_CSE.shape[-1])
            now["multimodality"] = multimodality(
                many_CSE, random_pairs(random, many_CSE.shape[1], config.multimodality.pairs)
            )
        if known:
            now["identity"] = identity(row, replication)
            now["identity_shuffled"] = identity(row, replication, shift=1)
            if row == "generated" and replication == 0:
                now["identity_swapped"] = identity("swapped", replication)
            if row == "real":
                # The same motions against captions that name the persons the other way round.
                now["identity_swapped"] = 1 - now["identity"]
        now |= {name: float(joined(row, replication, name).mean()) for name in PLAUSIBILITY}
        for name, value in now.items():
            values.setdefault(name, []).append(value)
    return {row: found[row] for row in ROWS if row in found}
