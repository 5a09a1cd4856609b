"""Raw recordings to the data set folder of intermoe/data/shards.py, by Ray Data.

Three streams of tasks, each of which writes files and returns a few numbers; motions and token states never pass
through the driver. ``read``: sources to rough parts, in any order, bad items to the quarantine. ``encode``: distinct
captions to their token states. ``write``: parts to shards sorted by id, and the moments of the training split. What a
task gets follows from the sorted ids and texts alone, so the same input gives the same bytes on any cluster. All nodes
must see the folder, as they must see the raw recordings.

Ray Data's own ``write_parquet`` is not used: it names files by task and cuts rows by blocks, both of which follow from
how the stream happened to be scheduled; a shard here has a fixed name, fixed rows and one row group a row.

Legend: B texts, T frames, P = 2 persons, J joints, R = J - 1, F features of a person-frame, K text tokens, W text
width.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from intermoe.body.conventions import SPLITS
from intermoe.body.skeletons import Skeleton
from intermoe.data.feature_moments import Moments
from intermoe.data.shards import (
    CAPTION_SCHEMA,
    CARD,
    MOTION_SCHEMA,
    QUARANTINE,
    ROWS_PER_FILE,
    DatasetCard,
    EncoderCard,
    shard_name,
    write_rows,
)
from intermoe.datasets.recordings import BadRecording, Reader, Recording, Source
from intermoe.errors import UserError
from intermoe.files import check_free, sha256, whole_folder
from intermoe.text.captions import mirror_caption, swap_caption, with_ordinals
from intermoe.text.encoders import TextEncoder, load_encoder
from pipelines.cluster.progress import ProgressCallback
from pipelines.cluster.session import quiet_data
from pipelines.preprocess.request import PreprocessRequest

_SOURCES_PER_TASK, _TEXTS_PER_BATCH = 16, 32
_PART_SCHEMA = pa.schema([MOTION_SCHEMA.field(name) for name in ("id", "frames", "position", "rotation")])


def preprocess(request: PreprocessRequest, progress: ProgressCallback | None = None) -> DatasetCard:
    """Publish a data set folder made of the request's recordings; Ray must be running.

    Args:
        request: from :meth:`PreprocessRequest.checked`.
        progress: called with how far each stage is.

    Raises:
        UserError: as for ``make_shards``.
    """
    with request.source.reader(scratch=request.out.parent) as reader:
        return make_shards(
            reader,
            name=request.name,
            out=request.out,
            encoder=request.encoder,
            text_folder=request.site.text_folder,
            progress=progress,
        )


def make_shards(
    reader: Reader,
    *,
    name: str,
    out: Path,
    encoder: str,
    text_folder: Path | None = None,
    progress: ProgressCallback | None = None,
) -> DatasetCard:
    """Publish a data set folder made of everything that the reader lists; Ray must be running.

    Args:
        reader: of the raw recordings.
        name: of the data set.
        out: where the folder appears at once when all is done; must not exist, or be empty.
        encoder: text encoder of the captions, "clip" or "minilm".
        text_folder: where the weights of "clip" lie.
        progress: called with a stage ("read", "encode", "write"), how many of its items are done, and of how many.

    Raises:
        UserError: ``out`` is taken or cannot be written, the raw folder or the encoder's weights are missing, or no
            recording of the training split can be used. Nothing is left behind then, nor after an interruption.
    """
    out = Path(out).absolute()
    check_free(out)
    sources = reader.sources()
    text_folder = None if text_folder is None else Path(text_folder).absolute()
    encoder_card = _describe_encoder(encoder, text_folder)
    with whole_folder(out) as folder:
        recordings, quarantine = _read(reader, sources, folder, progress or _silent)
        if not any(recording["split"] == "train" for recording in recordings):
            raise _nothing_to_train_on(len(recordings), quarantine)
        texts = _link_captions(recordings)
        captions = _encode(texts, encoder_card, text_folder, folder, progress or _silent)
        motions = _write(recordings, reader.skeleton, folder, progress or _silent)
        shutil.rmtree(folder / "parts")
        (folder / QUARANTINE).write_text("".join(f"{json.dumps(item)}\n" for item in quarantine), "utf-8")
        mean_F, std_F = Moments.total(_moments(shard) for shard in motions if "moments" in shard).mean_and_std()
        card = DatasetCard(
            name=name,
            reader=type(reader).__name__,
            skeleton=reader.skeleton.name,
            encoder=encoder_card,
            recordings={split: sum(r["split"] == split for r in recordings) for split in SPLITS},
            frames=sum(recording["frames"] for recording in recordings),
            captions=len(texts),
            max_tokens=max(file["tokens"] for file in captions),
            quarantined=len(quarantine),
            rows_per_file=ROWS_PER_FILE,
            mean=tuple(mean_F.tolist()),
            std=tuple(std_F.tolist()),
            files={
                **{file["file"]: file["sha256"] for file in (*captions, *motions)},
                QUARANTINE: sha256(folder / QUARANTINE),
            },
        )
        (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    return card


def _describe_encoder(encoder: str, text_folder: Path | None) -> EncoderCard:
    """Load the encoder, as the tasks will: wrong weights are reported before hours of reading."""
    loaded = load_encoder(encoder, text_folder)
    return EncoderCard(name=loaded.name, width=loaded.width, sha256=loaded.sha256)


def _silent(stage: str, done: int, total: int) -> None:
    """The progress of a caller who does not ask for it."""


def _stream(
    stage: str,
    task: Callable[[dict[str, Any]], dict[str, Any]],
    jobs: Sequence[dict[str, Any]],
    items: Callable[[dict[str, Any]], int],
    progress: ProgressCallback,
) -> list[dict[str, Any]]:
    """Run the task on every job, and return what it returned, in the order of the jobs.

    A job and its result pass as JSON: plain values whose Arrow type does not hang on what the first block holds.
    """
    done, total = 0, sum(map(items, jobs))
    progress(stage, done, total)
    results: dict[int, dict[str, Any]] = {}
    rows = [{"number": number, "job": json.dumps(job)} for number, job in enumerate(jobs)]
    with quiet_data():
        stream = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(partial(_answer, task=task))
        for row in stream.iter_rows():
            results[row["number"]] = result = json.loads(row["result"])
            if "error" in result:
                raise UserError(result["error"])
            done += items(jobs[row["number"]])
            progress(stage, done, total)
    return [results[number] for number in range(len(jobs))]


def _answer(row: dict[str, Any], task: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        result = task(json.loads(row["job"]))
    except UserError as error:  # as a result, since Ray wraps what is raised into errors of its own
        result = {"error": str(error)}
    except OSError as error:
        result = {"error": f"{error.filename}: cannot be read or written: {error.strerror or error}"}
    return {"number": row["number"], "result": json.dumps(result)}


def _read(
    reader: Reader, sources: Sequence[Source], folder: Path, progress: ProgressCallback
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Everything about the usable recordings but their motion, sorted by id, and the quarantine, sorted too."""
    plain = [[source.id, source.split] for source in sources]
    starts = range(0, len(plain), _SOURCES_PER_TASK)
    jobs = [{"part": f"{start}.parquet", "sources": plain[start : start + _SOURCES_PER_TASK]} for start in starts]
    (folder / "parts").mkdir()
    task = partial(_read_part, reader=reader, folder=folder / "parts")
    parts = _stream("read", task, jobs, lambda job: len(job["sources"]), progress)
    quarantine = [item for part in parts for item in part["quarantine"]]
    recordings: dict[str, dict[str, Any]] = {}
    for recording in (recording for part in parts for recording in part["recordings"]):
        if recording["id"] in recordings:
            quarantine.append({"id": recording["id"], "reason": "an earlier recording has the same id"})
        else:
            recordings[recording["id"]] = recording
    return (
        sorted(recordings.values(), key=lambda recording: recording["id"]),
        sorted(quarantine, key=lambda item: (item["id"], item["reason"])),
    )


def _read_part(job: dict[str, Any], reader: Reader, folder: Path) -> dict[str, Any]:
    """Read some sources into one file; what cannot be used is set aside, and never stops the rest."""
    recordings: list[dict[str, Any]] = []
    quarantine: list[dict[str, str]] = []

    def motions() -> Iterator[dict[str, Any]]:
        for source in (Source(*plain) for plain in job["sources"]):
            try:
                found = reader.read(source)
                if not found:
                    raise BadRecording("holds no recording")
            except Exception as error:  # whatever a reader stumbles over is the fault of this item alone
                quarantine.append({"id": source.id, "reason": _reason(error)})
                continue
            for recording in found:
                try:
                    known = _described(recording.check(reader.skeleton))
                except Exception as error:
                    quarantine.append({"id": recording.id, "reason": _reason(error)})
                    continue
                yield {
                    "id": recording.id,
                    "frames": known["frames"],
                    "position": np.asarray(recording.position_TPJ3, np.float32),
                    "rotation": np.asarray(recording.rotation_TPR6, np.float32),
                }
                recordings.append(known | {"part": job["part"], "row": len(recordings)})

    write_rows(folder / job["part"], _PART_SCHEMA, motions())
    return {"recordings": recordings, "quarantine": quarantine}


def _described(recording: Recording) -> dict[str, Any]:
    for caption in recording.captions:
        caption.encode()  # half a character (a lone surrogate) has no place in a file
    return {
        "id": recording.id,
        "split": recording.split,
        "frames": len(recording.position_TPJ3),
        "captions": recording.captions,
        "label": json.dumps(recording.label, sort_keys=True),
    }


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, BadRecording) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _nothing_to_train_on(usable: int, quarantine: Sequence[dict[str, str]]) -> UserError:
    counted = Counter(item["reason"] for item in quarantine).most_common(3)
    first = {reason: next(item["id"] for item in quarantine if item["reason"] == reason) for reason, _ in counted}
    reasons = "".join(f"; {count} x {reason}, such as {first[reason]}" for reason, count in counted)
    counts = f"{usable} of other splits, {len(quarantine)} set aside"
    return UserError(f"no recording of the training split can be used: {counts}{reasons}")


def _link_captions(recordings: Sequence[dict[str, Any]]) -> list[str]:
    """All distinct captions in all their forms, sorted; the recordings refer to them by number from now on."""
    forms: dict[str, Callable[[str], str]] = {
        "mirrored": mirror_caption,
        "swapped": swap_caption,
        "swapped_mirrored": lambda text: swap_caption(mirror_caption(text)),
    }
    captions = {text for recording in recordings for text in recording["captions"]}
    made = {name: {text: form(text) for text in captions} for name, form in forms.items()}
    texts = sorted(captions.union(*(texts.values() for texts in made.values())))
    number = {text: row for row, text in enumerate(texts)}
    for recording in recordings:
        for name, form_of in made.items():
            recording[name] = [number[form_of[text]] for text in recording["captions"]]
        recording["captions"] = [number[text] for text in recording["captions"]]
    return texts


def _encode(
    texts: Sequence[str], encoder: EncoderCard, text_folder: Path | None, folder: Path, progress: ProgressCallback
) -> list[dict[str, Any]]:
    jobs = [
        {"file": shard_name("captions/", start // ROWS_PER_FILE), "texts": texts[start : start + ROWS_PER_FILE]}
        for start in range(0, len(texts), ROWS_PER_FILE)
    ]
    task = partial(_write_captions, encoder=encoder, text_folder=text_folder, folder=folder)
    return _stream("encode", task, jobs, lambda job: len(job["texts"]), progress)


# Ray keeps a worker process for the next task: it loads the encoder once.
_loaded = lru_cache(1)(load_encoder)


def _write_captions(
    job: dict[str, Any], encoder: EncoderCard, text_folder: Path | None, folder: Path
) -> dict[str, Any]:
    torch.set_num_threads(1)  # how a sum is split over threads shows in its last bits
    loaded = _loaded(encoder.name, text_folder)
    if loaded.sha256 != encoder.sha256:
        raise UserError(f"the weights of {encoder.name} are not the same on all nodes", where=text_folder)
    rows = list(_caption_rows(loaded, job["texts"]))
    write_rows(folder / job["file"], CAPTION_SCHEMA, rows)
    return {"file": job["file"], "sha256": sha256(folder / job["file"]), "tokens": max(row["tokens"] for row in rows)}


def _caption_rows(encoder: TextEncoder, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(texts), _TEXTS_PER_BATCH):
        batch = texts[start : start + _TEXTS_PER_BATCH]
        encoded = encoder.encode([with_ordinals(text) for text in batch])  # as InterMoE.read_prompts reads prompts
        for text, state_KW, mask_K, eot in zip(batch, encoded.states_BKW, encoded.mask_BK, encoded.eot_B, strict=True):
            valid_KW = state_KW[mask_K].numpy()
            yield {"text": text, "tokens": len(valid_KW), "eot": int(eot), "state": valid_KW}


def _write(
    recordings: Sequence[dict[str, Any]], skeleton: Skeleton, folder: Path, progress: ProgressCallback
) -> list[dict[str, Any]]:
    jobs = []
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
    task = partial(_write_shard, skeleton=skeleton, folder=folder)
    return _stream("write", task, jobs, lambda job: len(job["rows"]), progress)


def _write_shard(job: dict[str, Any], skeleton: Skeleton, folder: Path) -> dict[str, Any]:
    """Gather a shard's recordings from the parts; with the moments of their features, where they are wanted."""
    torch.set_num_threads(1)
    part = lru_cache(_SOURCES_PER_TASK)(lambda name: pq.ParquetFile(folder / "parts" / name, memory_map=True))
    moments: list[Moments] = []

    def motions() -> Iterator[dict[str, Any]]:
        for row in job["rows"]:
            table = part(row["part"]).read_row_group(row["row"], ["position", "rotation"], use_threads=False)
            position, rotation = (table[name][0].values.to_numpy() for name in ("position", "rotation"))
            if job["measured"]:
                position_TPJ3 = torch.tensor(position).view(row["frames"], 2, skeleton.num_joints, 3)
                rotation_TPR6 = torch.tensor(rotation).view(row["frames"], 2, skeleton.num_joints - 1, 6)
                moments.append(Moments.of(position_TPJ3, rotation_TPR6, skeleton))
            yield row | {"position": position, "rotation": rotation}

    write_rows(folder / job["file"], MOTION_SCHEMA, motions())
    shard = {"file": job["file"], "sha256": sha256(folder / job["file"])}
    if moments:
        total = Moments.total(moments)
        shard["moments"] = [total.count, total.sum_F.tolist(), total.square_F.tolist()]
    return shard


def _moments(shard: dict[str, Any]) -> Moments:
    count, sum_F, square_F = shard["moments"]
    return Moments(count, torch.tensor(sum_F, dtype=torch.float64), torch.tensor(square_F, dtype=torch.float64))
