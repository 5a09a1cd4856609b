"""The protocol of evaluation: what each replication draws, and what becomes of what was computed.

All that is drawn (captions, crops, which person is first, the order of the pools, noise) is a function of one seed, the
replication and the recording's id. What is computed, once where replications repeat it, is sorted by length and falls
into jobs of fixed samples, so that hardly anything is padded: who computes which job changes nothing, and scores take
the results in the order that was drawn.

Legend: N samples, E embedding, K kinds of identity.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import Field

from intermoe.body.skeletons import skeleton_named
from intermoe.config import Config
from intermoe.data.batches import crop_bounds
from intermoe.data.draws import Draw, draw, replication_order
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation import measures
from intermoe.evaluation.identity import KINDS
from intermoe.evaluation.replication import Row
from intermoe.layers.precision import Precision
from intermoe.text.captions import Persons

ROWS: tuple[Row, ...] = ("recorded", "reconstructed", "reconstructed_raw", "generated", "raw", "untrained")
Purpose = Literal[
    "captions", "reference", "recorded", "reconstructed", "generated", "untrained", "swapped", "multimodality"
]
"""What samples are for: "captions" are the texts of the rows, "reference" the recordings that FIDs are distances to,
"swapped" motions from captions that name the persons the other way round, "multimodality" many motions of few captions,
the others a row of the table."""
GENERATING: tuple[Purpose, ...] = ("generated", "untrained", "swapped", "multimodality")
Form = Literal["recorded", "settled", "raw"]
"""In which form motions are embedded and measured: those of a network settled, as users get them, and raw, as it gives
them."""
SOURCES: Mapping[Row, tuple[Purpose, Form]] = MappingProxyType(
    {
        "recorded": ("recorded", "recorded"),
        "reconstructed": ("reconstructed", "settled"),
        "reconstructed_raw": ("reconstructed", "raw"),
        "generated": ("generated", "settled"),
        "raw": ("generated", "raw"),
        "untrained": ("untrained", "settled"),
    }
)
"""What the motions of each row are for, and in which form they count."""
_ALIKE: Mapping[Purpose, Purpose] = MappingProxyType({"swapped": "generated", "multimodality": "generated"})
"""Whose forms those of other motions are."""
_PURPOSES_OF_ROWS = frozenset(purpose for purpose, _ in SOURCES.values())


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
        precision: of the products of the evaluator.
    """

    replications: int = Field(default=20, ge=1)
    pool: int = Field(default=96, ge=2)
    diversity_pairs: int = Field(default=300, ge=1)
    multimodality: MultimodalityConfig = MultimodalityConfig()
    batch_size: int = Field(default=64, ge=1)
    precision: Precision = "auto"


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


class Use(NamedTuple):
    """Where a result counts: in which set of samples, and at which place of it."""

    purpose: Purpose
    replication: int
    place: int


@dataclass(frozen=True)
class EvaluationJob:
    """Samples of nearly one length that are computed together.

    Attributes:
        purpose: what their motions are for.
        number: of the job among those of its purpose.
        samples: what is computed.
        uses: where each of them counts: a recording that is not cropped looks the same in many replications.
        forms: in which forms the motions are embedded and measured.
        tells_roles: whether the data set says who acts, so that it is worth finding out who does.
    """

    purpose: Purpose
    number: int
    samples: tuple[EvaluationSample, ...]
    uses: tuple[tuple[Use, ...], ...]
    forms: tuple[Form, ...]
    tells_roles: bool

    @property
    def name(self) -> str:
        """The name of the job and its file."""
        return f"{self.purpose}-{self.number:06d}"

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
            *(("motion",) if self.purpose not in ("captions", "swapped") else ()),
            *(("actor",) if self.tells_roles and (self.makes_row or self.purpose == "swapped") else ()),
            *(measures.of_each_motion() if self.makes_row else ()),
        )

    @property
    def file_arrays(self) -> set[str]:
        """The names of the arrays in its file: ``FORM/ARRAY``, or ``text``, the captions' embeddings [N, E]."""
        if self.purpose == "captions":
            return {"text"}
        return {f"{form}/{name}" for form in self.forms for name in self.arrays}


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
    skeleton = skeleton_named(folder.card.skeleton)
    tells_roles = identity_is_known(folder, split)

    def draw_sample(replication: int, purpose: str, row: int) -> EvaluationSample:
        drawn = replace(draw(seed, replication, f"{purpose}/{headers[row].id}"), mirror=False).allowed(skeleton)
        if persons == "named":
            drawn = folder.in_named_order(headers[row], drawn)
        start, end = crop_bounds(int(index.frames[row]), max_frames, drawn)
        return EvaluationSample(row, headers[row].caption(drawn), drawn, end - start - 1)

    def key(purpose: Purpose, sample: EvaluationSample) -> Hashable:
        """What is the same of samples whose results are the same."""
        if purpose == "captions":
            return sample.caption
        if purpose in GENERATING:
            return sample
        return sample.row, sample.drawn.swap, crop_bounds(int(index.frames[sample.row]), max_frames, sample.drawn)

    sets: dict[tuple[Purpose, int], list[EvaluationSample]] = {}
    for replication in range(config.replications):
        order = replication_order(seed, replication, count).tolist()
        pairs = [draw_sample(replication, "pairs", row) for row in order]
        sets["captions", replication] = pairs
        for row in rows:
            purpose, _ = SOURCES[row]
            if row != "untrained" or replication < untrained_replications(config):
                sets[purpose, replication] = pairs
        sets["reference", replication] = [draw_sample(replication, "reference", row) for row in order]
        if "generated" in rows:
            few = config.multimodality
            chosen = [draw_sample(replication, "multimodality", row) for row in order[: few.captions]]
            sets["multimodality", replication] = [
                _repeated(sample, seed, number) for sample in chosen for number in range(few.samples)
            ]
            if replication == 0 and tells_roles:
                sets["swapped", replication] = [_exchanged(sample, headers[sample.row]) for sample in pairs]
    jobs = []
    for purpose, computed in _computed(sets, key).items():
        longest_first = sorted(computed, key=lambda sample_and_uses: -sample_and_uses[0].frames)
        for number, start in enumerate(range(0, len(longest_first), config.batch_size)):
            samples, uses = zip(*longest_first[start : start + config.batch_size], strict=True)
            jobs.append(
                EvaluationJob(purpose, number, samples, tuple(map(tuple, uses)), _forms(purpose, rows), tells_roles)
            )
    return sorted(jobs, key=lambda job: (job.purpose not in GENERATING, -job.samples[0].frames))


def _computed(
    sets: Mapping[tuple[Purpose, int], Sequence[EvaluationSample]],
    key: Callable[[Purpose, EvaluationSample], Hashable],
) -> dict[Purpose, list[tuple[EvaluationSample, list[Use]]]]:
    """What is computed for each purpose, each once, and where it counts.

    References are taken from the recorded motions of rows where these hold the same.
    """
    computed: dict[Purpose, dict[Hashable, tuple[EvaluationSample, list[Use]]]] = {}
    for (purpose, replication), samples in sorted(sets.items(), key=lambda entry: entry[0][0] == "reference"):
        for place, sample in enumerate(samples):
            same = key(purpose, sample)
            shared = purpose == "reference" and same in computed.get("recorded", {})
            among = computed.setdefault("recorded" if shared else purpose, {})
            among.setdefault(same, (sample, []))[1].append(Use(purpose, replication, place))
    return {purpose: list(among.values()) for purpose, among in computed.items()}


def _forms(purpose: Purpose, rows: Sequence[Row]) -> tuple[Form, ...]:
    if purpose == "reference":
        return ("recorded",)
    source = _ALIKE.get(purpose, purpose)
    return tuple(form for row, (of_row, form) in SOURCES.items() if row in rows and of_row == source)


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
