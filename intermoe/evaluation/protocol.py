"""The protocol of evaluation: what each replication draws, and what becomes of what was computed.

All that is drawn (captions, crops, which person is first, the order of the pools, noise) is a function of one seed, the
replication and the recording's id. A plan falls into jobs of fixed samples: who computes which job changes nothing.

Legend: N samples, E embedding, C captions, S samples of a caption, K kinds of identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from intermoe.config import Config
from intermoe.data.batches import crop_bounds
from intermoe.data.draws import Draw, draw, replication_order, replication_pairs
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation import measures
from intermoe.evaluation.identity import KINDS, Roles
from intermoe.evaluation.metrics import random_pairs
from intermoe.evaluation.replication import Replication, Row
from intermoe.text.captions import Persons

ROWS: tuple[Row, ...] = ("recorded", "generated", "raw", "untrained")
Purpose = Literal["reference", "recorded", "generated", "untrained", "swapped", "multimodality"]
"""What motions are for: "reference" are the recordings that FIDs are distances to, "swapped" motions from captions that
name the persons the other way round, "multimodality" many motions of few captions, the others a row of the table."""
GENERATING: tuple[Purpose, ...] = ("generated", "untrained", "swapped", "multimodality")
Form = Literal["recorded", "settled", "raw"]
"""In which form motions are embedded and measured: generated ones settled, as users get them, and raw, as the network
gives them."""
_SOURCES: Mapping[Row, tuple[Purpose, Form]] = MappingProxyType(
    {
        "recorded": ("recorded", "recorded"),
        "generated": ("generated", "settled"),
        "raw": ("generated", "raw"),
        "untrained": ("untrained", "settled"),
    }
)
_PURPOSES_OF_ROWS = frozenset(purpose for purpose, _ in _SOURCES.values())

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
    """Settings of an evaluation; the defaults are those of the literature.

    Attributes:
        replications: how often everything is drawn anew.
        pool: pairs of caption and motion among which R-precision looks for the motion of a caption.
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
class EvaluationSample:
    """One motion to look at or to generate.

    Attributes:
        row: of the recording in the split.
        caption: row of the text it is generated from or described by.
        drawn: crop and person swap of the recording; its seed is that of the noise.
        frames: frames of features.
    """

    row: int
    caption: int
    drawn: Draw
    frames: int


@dataclass(frozen=True)
class EvaluationJob:
    """Samples of one replication that are computed together.

    Attributes:
        purpose: what their motions are for.
        replication: its number.
        first: place of the first sample among all of that purpose and replication.
        samples: what is computed.
        forms: in which forms the motions are embedded and measured.
        tells_roles: whether the data set says who acts, so that it is worth finding out who does.
    """

    purpose: Purpose
    replication: int
    first: int
    samples: tuple[EvaluationSample, ...]
    forms: tuple[Form, ...]
    tells_roles: bool

    @property
    def name(self) -> str:
        """The name of the job and its file."""
        return f"{self.purpose}-{self.replication:03d}-{self.first:06d}"

    @property
    def makes_row(self) -> bool:
        """Whether its motions make a row of the table."""
        return self.purpose in _PURPOSES_OF_ROWS

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of what is computed of its motions in each form, each an array over the samples.

        ``motion`` is their embeddings [N, E], ``actor`` who acts in them [N, K] (see identity.py), and the others are
        the measures that are taken of each motion for itself [N].
        """
        return (
            *(("motion",) if self.purpose != "swapped" else ()),
            *(("actor",) if self.tells_roles and (self.makes_row or self.purpose == "swapped") else ()),
            *(measures.of_each_motion() if self.makes_row else ()),
        )

    @property
    def file_arrays(self) -> set[str]:
        """The names of the arrays in its file: ``FORM/ARRAY``, and for a row ``text``, the captions' embeddings."""
        return {f"{form}/{name}" for form in self.forms for name in self.arrays} | (
            {"text"} if self.makes_row else set()
        )


def plan(
    folder: DatasetFolder,
    config: EvaluationConfig,
    *,
    seed: int,
    max_frames: int,
    persons: Persons = "drawn",
    rows: Sequence[Row] = ROWS,
    split: str = "test",
) -> list[EvaluationJob]:
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
        UserError: the split is empty, or has fewer recordings than a pool; "raw" without "generated".
    """
    if "raw" in rows and "generated" not in rows:
        raise UserError("the row raw without the row generated", where="rows", allowed="both, or only generated")
    count = check_split(folder, config, split)
    index, headers = folder.index(split), folder.headers(split)
    tells_roles = identity_is_known(folder, split)

    def draw_sample(replication: int, purpose: str, row: int) -> EvaluationSample:
        drawn = replace(draw(seed, replication, f"{purpose}/{headers[row].id}"), mirror=False)
        if persons == "named":
            drawn = folder.in_named_order(headers[row], drawn)
        start, end = crop_bounds(int(index.frames[row]), max_frames, drawn)
        return EvaluationSample(row, headers[row].caption(drawn), drawn, end - start - 1)

    jobs = []
    for replication in range(config.replications):
        order = replication_order(seed, replication, count).tolist()
        pairs = [draw_sample(replication, "pairs", row) for row in order]
        sets: dict[Purpose, list[EvaluationSample]] = {
            "reference": [draw_sample(replication, "reference", row) for row in order]
        }
        for row in rows:
            purpose, _ = _SOURCES[row]
            if row != "untrained" or replication < untrained_replications(config):
                sets[purpose] = pairs
        if "generated" in rows:
            few = config.multimodality
            chosen = [draw_sample(replication, "multimodality", row) for row in order[: few.captions]]
            sets["multimodality"] = [
                _repeated(sample, seed, number) for sample in chosen for number in range(few.samples)
            ]
            if replication == 0 and tells_roles:
                sets["swapped"] = [_exchanged(sample, headers[sample.row]) for sample in pairs]
        for purpose, samples in sets.items():
            forms = _forms(purpose, rows)
            for start in range(0, len(samples), config.batch_size):
                batch = tuple(samples[start : start + config.batch_size])
                jobs.append(EvaluationJob(purpose, replication, start, batch, forms, tells_roles))
    return sorted(jobs, key=lambda job: job.purpose not in GENERATING)


def _forms(purpose: Purpose, rows: Sequence[Row]) -> tuple[Form, ...]:
    if purpose not in GENERATING:
        return ("recorded",)
    return ("settled", "raw") if "raw" in rows and purpose != "untrained" else ("settled",)


def _exchanged(sample: EvaluationSample, recording: RecordingHeader) -> EvaluationSample:
    """The sample with the persons of its caption in each other's place."""
    drawn = replace(sample.drawn, swap=not sample.drawn.swap)
    return replace(sample, caption=recording.caption(drawn), drawn=drawn)


def _repeated(sample: EvaluationSample, seed: int, number: int) -> EvaluationSample:
    """The number-th repetition of a sample: the same but for its noise."""
    noise = draw(seed, number, f"{sample.drawn.seed}").seed
    return replace(sample, drawn=replace(sample.drawn, seed=noise))


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


def identity_is_known(folder: DatasetFolder, split: str) -> bool:
    """Whether the recordings say which kind of interaction they are and who acts, as Duet's do."""
    label = folder.headers(split)[0].label
    return label.get("kind") in KINDS and label.get("actor") in (0, 1)


def score(
    folder: DatasetFolder,
    config: EvaluationConfig,
    jobs: Sequence[EvaluationJob],
    parts: Mapping[str, Part],
    *,
    seed: int,
    split: str,
) -> pd.DataFrame:
    """Every measure of every row of the table in every replication.

    Args:
        folder: the data set.
        config: as it was planned.
        jobs: the plan.
        parts: what was computed of each job, by its name: its ``file_arrays``.
        seed: as it was planned.
        split: as it was planned.

    Returns:
        A column for each of ``MEASURES``, float64; a line for each row of the table and replication, by ``row`` in the
        order of ``ROWS`` and ``replication``. NaN where a measure is not known.
    """
    by_set: dict[tuple[Purpose, int], list[EvaluationJob]] = {}
    for job in sorted(jobs, key=lambda job: job.first):
        by_set.setdefault((job.purpose, job.replication), []).append(job)
    sets = {key: _Set(together, [parts[job.name] for job in together]) for key, together in by_set.items()}
    headers = folder.headers(split)
    values = {}
    for row, (purpose, form) in _SOURCES.items():
        for number in range(config.replications):
            if (purpose, number) in sets and form in sets[purpose, number].jobs[0].forms:
                random = replication_pairs(seed, number)
                taken_of = _replication(row, number, sets=sets, headers=headers, config=config, random=random)
                values[row, number] = [measure.value(taken_of) for measure in measures.MEASURES.values()]
    index = pd.MultiIndex.from_tuples(list(values), names=["row", "replication"])
    return pd.DataFrame(list(values.values()), index=index, columns=list(measures.MEASURES), dtype=np.float64)


@dataclass(frozen=True)
class _Set:
    """The jobs of one purpose and replication in their order, and what was computed of each."""

    jobs: Sequence[EvaluationJob]
    parts: Sequence[Part]

    def joined(self, name: str) -> NDArray[Any]:
        """An array of the jobs' files over all samples."""
        return np.concatenate([part[name] for part in self.parts])

    def roles(self, form: Form, headers: Sequence[RecordingHeader]) -> Roles | None:
        """Who acts and who should; None where the data set does not say."""
        if not self.jobs[0].tells_roles:
            return None
        samples = [sample for job in self.jobs for sample in job.samples]
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
    random: np.random.Generator,
) -> Replication:
    purpose, form = _SOURCES[row]
    motions, few = sets[purpose, number], config.multimodality
    many = sets.get(("multimodality", number)) if purpose == "generated" else None
    exchanged = sets.get(("swapped", number)) if purpose == "generated" else None
    motion_NE = motions.joined(f"{form}/motion")
    # The order of the two decides what they draw.
    diversity_pairs = random_pairs(random, len(motion_NE), config.diversity_pairs)
    multimodality_pairs = random_pairs(random, few.samples, few.pairs)
    return Replication(
        row=row,
        text_NE=motions.joined("text"),
        motion_NE=motion_NE,
        reference_NE=sets["reference", number].joined("recorded/motion"),
        pool=config.pool,
        diversity_pairs=diversity_pairs,
        of_motions={name: motions.joined(f"{form}/{name}") for name in measures.of_each_motion()},
        multimodality_pairs=multimodality_pairs,
        many_CSE=many.joined(f"{form}/motion").reshape(-1, few.samples, motion_NE.shape[1]) if many else None,
        roles=motions.roles(form, headers),
        exchanged_roles=exchanged.roles(form, headers) if exchanged else None,
    )
