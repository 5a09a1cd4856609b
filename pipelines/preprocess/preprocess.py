"""Raw recordings to the data set folder of intermoe/data/shards.py, by Ray Data.

Streams of tasks, each of which writes files and returns a few numbers; motions and token states never pass through the
driver. ``make``: the raw recordings of the embedded data set, where those are asked for. ``read``: sources to rough
parts, in any order, bad items to the quarantine. ``encode``: distinct captions to their token states, on GPUs where
some are free. ``write``: parts to shards sorted by id, and the moments of the training split. What a task gets follows
from the sorted ids and texts alone, so the same input gives the same bytes on any cluster; but token states that a GPU
has computed differ from a CPU's in their last bits. All nodes must see the folder, as they must see the raw recordings.

Ray Data's own ``write_parquet`` is not used: it names files by task and cuts rows by blocks, both of which follow from
how the stream happened to be scheduled; a shard here has a fixed name, fixed rows and one row group per row.

Legend: F features of a person-frame.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import ray.data
import torch

from intermoe.body.conventions import SPLITS
from intermoe.body.skeletons import Skeleton
from intermoe.data.card import CARD, NOTES, QUARANTINE, ROWS_PER_FILE, DatasetCard, EncoderCard, shard_name, write_card
from intermoe.data.feature_moments import Moments
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.choreography.write import Part, WrittenPart
from intermoe.datasets.recordings import Reader, Source
from intermoe.errors import UserError
from intermoe.files import check_free, discard, make_folder, sha256, whole_folder
from intermoe.locks import locked
from intermoe.places import Place, absolute, as_place
from intermoe.text.captions import mirror_caption, swap_caption
from intermoe.text.encoders import load_encoder
from pipelines.cluster.progress import ProgressCallback
from pipelines.cluster.session import quiet_data
from pipelines.preprocess.request import PreprocessRequest
from pipelines.preprocess.tasks import (
    CaptionFile,
    EncodeJob,
    MotionFile,
    MotionRow,
    ReadJob,
    ReadRecording,
    SetAside,
    WriteJob,
    read_part,
    write_captions,
    write_shard,
)

_SOURCES_PER_TASK = 16
_NUMBER_OR_NAME = re.compile(r"'[^']*'|-?\d+(?:\.\d+)?")

_Job = TypeVar("_Job", bound=Mapping[str, Any])
_Result = TypeVar("_Result", bound=Mapping[str, Any])


def preprocess(request: PreprocessRequest, progress: ProgressCallback | None = None) -> DatasetCard:
    """Publish a data set folder made of the request's recordings; Ray must be running.

    Args:
        request: from :meth:`PreprocessRequest.checked`.
        progress: called with how far each stage is.

    Raises:
        UserError: another process works on ``out``; else as for ``make_shards``.
    """
    run = partial(_make, progress=progress or _silent)
    with locked(request.out), request.source.reader(request.out.parent, run) as reader:
        return make_shards(
            reader,
            name=request.name,
            out=request.out,
            encoder=request.encoder,
            text_folder=request.site.text_folder,
            statistics_of=None if request.statistics_of is None else DatasetFolder.open(request.statistics_of).card,
            progress=progress,
        )


def make_shards(
    reader: Reader,
    *,
    name: str,
    out: Place,
    encoder: str,
    text_folder: Path | None = None,
    statistics_of: DatasetCard | None = None,
    progress: ProgressCallback | None = None,
) -> DatasetCard:
    """Publish a data set folder made of everything that the reader lists; Ray must be running.

    Args:
        reader: of the raw recordings.
        name: of the data set.
        out: where the folder appears at once when all is done; must not exist, or be empty.
        encoder: text encoder of the captions, "clip" or "minilm".
        text_folder: where the weights of "clip" lie.
        statistics_of: data set whose mean and standard deviation these shards take over; those of the training split
            if None.
        progress: called with a stage ("make" where recordings are made, "read", "encode", "write"), how many of its
            items are done, and of how many.

    Raises:
        UserError: ``out`` is taken or cannot be written, the raw folder or the encoder's weights are missing,
            ``statistics_of`` has another skeleton, or no recording can be used: none of the training split, or none
            at all with ``statistics_of``. Nothing is left behind then, nor after an interruption.
    """
    out = absolute(as_place(out))
    check_free(out)
    if statistics_of is not None and statistics_of.skeleton != reader.skeleton.name:
        raise UserError(
            f"statistics of {statistics_of.name!r} are of the skeleton {statistics_of.skeleton!r}",
            allowed=f"of {reader.skeleton.name!r}, as the recordings",
        )
    sources = reader.sources()
    text_folder = None if text_folder is None else Path(text_folder).absolute()
    encoder_card = _describe_encoder(encoder, text_folder)
    with whole_folder(out, seal=CARD) as folder:
        recordings, quarantine = _read(reader, sources, folder, progress or _silent)
        if not any(statistics_of is not None or recording["split"] == "train" for recording in recordings):
            raise _nothing_usable(len(recordings), quarantine)
        texts, rows = _link_captions(recordings, changes=reader.skeleton.features == "world")
        captions = _encode(_with_words(texts, recordings), encoder_card, text_folder, folder, progress or _silent)
        motions = _write(rows, reader.skeleton, folder, progress or _silent)
        discard(folder / "parts")
        notes = [{"id": recording["id"], "note": note} for recording in recordings for note in recording["notes"]]
        _write_lines(folder / NOTES, notes)
        _write_lines(folder / QUARANTINE, [{"id": item["id"], "reason": _full_reason(item)} for item in quarantine])
        if statistics_of is not None:
            mean, std = statistics_of.mean, statistics_of.std
        else:
            moments = Moments.total(_moments(shard) for shard in motions if "moments" in shard)
            mean, std = (tuple(values_F.tolist()) for values_F in moments.mean_and_std())
        card = DatasetCard(
            name=name,
            reader=type(reader).__name__,
            skeleton=reader.skeleton.name,
            names_persons=reader.names_persons,
            fps=reader.skeleton.fps,
            encoder=encoder_card,
            recordings={split: sum(r["split"] == split for r in recordings) for split in SPLITS},
            frames=sum(recording["frames"] for recording in recordings),
            captions=len(texts),
            captions_cut=sum(file["cut"] for file in captions),
            max_tokens=max(file["tokens"] for file in captions),
            quarantined=len(quarantine),
            noted=len({note["id"] for note in notes}),
            rows_per_file=ROWS_PER_FILE,
            mean=mean,
            std=std,
            files={
                **{file["file"]: file["sha256"] for file in (*captions, *motions)},
                **{name: sha256(folder / name) for name in (NOTES, QUARANTINE)},
            },
        )
        write_card(folder, card)
    return card


def _describe_encoder(encoder: str, text_folder: Path | None) -> EncoderCard:
    """Load the encoder, as the tasks will: wrong weights are reported before hours of reading."""
    loaded = load_encoder(encoder, text_folder)
    return EncoderCard(name=loaded.name, width=loaded.width, sha256=loaded.sha256)


def _silent(stage: str, done: int, total: int) -> None:
    """The progress of a caller who does not ask for it."""


def _stream(
    stage: str,
    task: Callable[[_Job], _Result],
    jobs: Sequence[_Job],
    items: Callable[[_Job], int],
    progress: ProgressCallback,
    *,
    num_gpus: int = 0,
) -> list[_Result]:
    """Run the task on every job, and return what it returned, in the order of the jobs.

    With GPUs, a process of each does one job after another; a task with one would start a process per job.

    A job and its result pass as JSON: plain values whose Arrow type does not hang on what the first block holds.
    """
    done, total = 0, sum(map(items, jobs))
    progress(stage, done, total)
    results: dict[int, _Result] = {}
    rows = [{"number": number, "job": json.dumps(job)} for number, job in enumerate(jobs)]
    with quiet_data():
        items_of_jobs = ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
        if num_gpus:
            stream = items_of_jobs.map(
                cast(Any, _Answering),
                fn_constructor_args=(task,),
                num_gpus=1,
                concurrency=(1, min(num_gpus, len(rows))),
            )
        else:
            stream = items_of_jobs.map(partial(_answer, task=task))
        for row in stream.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise UserError(result["error"])
            results[row["number"]] = result
            done += items(jobs[row["number"]])
            progress(stage, done, total)
    return [results[number] for number in range(len(jobs))]


def _answer(row: dict[str, Any], task: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    try:
        result = task(json.loads(row["job"]))
    except UserError as error:  # as a result, since Ray wraps what is raised into errors of its own
        result = {"error": str(error)}
    except OSError as error:
        result = {"error": f"{error.filename}: cannot be read or written: {error.strerror or error}"}
    return {"number": row["number"], "result": json.dumps(result)}


class _Answering:
    """A process that does jobs of one kind."""

    def __init__(self, task: Callable[[Any], Mapping[str, Any]]) -> None:
        self._task = task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _answer(row, self._task)


def _make(task: Callable[[Part], WrittenPart], parts: Sequence[Part], progress: ProgressCallback) -> list[WrittenPart]:
    return _stream("make", task, parts, lambda part: part["end"] - part["first"], progress)


def _read(
    reader: Reader, sources: Sequence[Source], folder: Place, progress: ProgressCallback
) -> tuple[list[ReadRecording], list[SetAside]]:
    """Everything about the usable recordings but their motion, sorted by id, and the quarantine, sorted too."""
    plain = [(source.id, source.split) for source in sources]
    starts = range(0, len(plain), _SOURCES_PER_TASK)
    jobs: list[ReadJob] = [
        {"part": f"{start}.parquet", "sources": plain[start : start + _SOURCES_PER_TASK]} for start in starts
    ]
    make_folder(folder / "parts")
    task = partial(read_part, reader=reader, folder=folder / "parts")
    parts = _stream("read", task, jobs, lambda job: len(job["sources"]), progress)
    quarantine = [item for part in parts for item in part["quarantine"]]
    recordings: dict[str, ReadRecording] = {}
    for recording in (recording for part in parts for recording in part["recordings"]):
        if recording["id"] in recordings:
            reason = "an earlier recording has the same id"
            quarantine.append({"id": recording["id"], "reason": reason, "where": ""})
        else:
            recordings[recording["id"]] = recording
    return (
        sorted(recordings.values(), key=lambda recording: recording["id"]),
        sorted(quarantine, key=lambda item: (item["id"], item["reason"], item["where"])),
    )


def _nothing_usable(usable: int, quarantine: Sequence[SetAside]) -> UserError:
    counted = Counter(_kind(item) for item in quarantine).most_common(3)
    first = {kind: next(item for item in quarantine if _kind(item) == kind) for kind, _ in counted}
    reasons = "".join(f"; {count} x {first[kind]['reason']} (as in {first[kind]['id']})" for kind, count in counted)
    message = f"no recording can be used, {len(quarantine)} set aside{reasons}"
    if not usable:
        return UserError(message)
    message = f"no recording of the training split can be used: {usable} of other splits, {len(quarantine)} set aside"
    return UserError(f"{message}{reasons}", allowed="--statistics-of DATASET, for recordings that are only tested on")


def _kind(item: SetAside) -> str:
    """The reason without its numbers and names, which differ from file to file."""
    return _NUMBER_OR_NAME.sub("_", item["reason"])


def _full_reason(item: SetAside) -> str:
    return f"{item['where']}: {item['reason']}" if item["where"] else item["reason"]


def _write_lines(file: Place, items: Sequence[Mapping[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items), "utf-8")


def _link_captions(recordings: Sequence[ReadRecording], *, changes: bool) -> tuple[list[str], list[MotionRow]]:
    """All distinct captions in all their forms, sorted, and the recordings, which refer to them by number.

    Where motions are never mirrored nor their persons exchanged in training, all forms are the caption itself.
    """
    forms: dict[str, Callable[[str], str]] = {
        "mirrored": mirror_caption,
        "swapped": swap_caption,
        "swapped_mirrored": lambda text: swap_caption(mirror_caption(text)),
    }
    captions = {text for recording in recordings for text in recording["captions"]}
    form_of = {name: {text: form(text) if changes else text for text in captions} for name, form in forms.items()}
    texts = sorted(captions.union(*(changed.values() for changed in form_of.values())))
    number = {text: row for row, text in enumerate(texts)}
    rows = []
    for recording in recordings:
        linked = {name: [number[form_of[name][text]] for text in recording["captions"]] for name in forms}
        linked["captions"] = [number[text] for text in recording["captions"]]
        rows.append(cast(MotionRow, {**recording, **linked}))
    return texts, rows


def _with_words(texts: Sequence[str], recordings: Sequence[ReadRecording]) -> dict[str, str]:
    """Each text with the words that the data set gives for it, or none: it gives none of mirrored and swapped forms."""
    pairs = (zip(recording["captions"], recording["words"], strict=False) for recording in reversed(recordings))
    words = dict(chain.from_iterable(pairs))
    return {text: words.get(text, "") for text in texts}


def _encode(
    captions: Mapping[str, str],
    encoder: EncoderCard,
    text_folder: Path | None,
    folder: Place,
    progress: ProgressCallback,
) -> list[CaptionFile]:
    """Files of the texts, each with its words."""
    texts, words = list(captions), list(captions.values())
    jobs: list[EncodeJob] = [
        {
            "file": shard_name("captions/", start // ROWS_PER_FILE),
            "texts": texts[start : start + ROWS_PER_FILE],
            "words": words[start : start + ROWS_PER_FILE],
        }
        for start in range(0, len(texts), ROWS_PER_FILE)
    ]
    task = partial(write_captions, encoder=encoder, text_folder=text_folder, folder=folder)
    # Not those that are free at the moment: a command gives the same bytes whenever it runs on a cluster.
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    return _stream("encode", task, jobs, lambda job: len(job["texts"]), progress, num_gpus=num_gpus)


def _write(
    recordings: Sequence[MotionRow], skeleton: Skeleton, folder: Place, progress: ProgressCallback
) -> list[MotionFile]:
    jobs: list[WriteJob] = []
    for split in SPLITS:
        rows = [recording for recording in recordings if recording["split"] == split]
        jobs += [
            {
                "file": shard_name(f"motions/{split}", start // ROWS_PER_FILE),
                "rows": rows[start : start + ROWS_PER_FILE],
                "measured": split == "train",
            }
            for start in range(0, len(rows), ROWS_PER_FILE)
        ]
    task = partial(write_shard, skeleton=skeleton, folder=folder)
    return _stream("write", task, jobs, lambda job: len(job["rows"]), progress)


def _moments(shard: MotionFile) -> Moments:
    count, sum_F, square_F = shard["moments"]
    return Moments(count, torch.tensor(sum_F, dtype=torch.float64), torch.tensor(square_F, dtype=torch.float64))
