"""Shards to batches: Ray Data reads and prepares what each training step of each worker needs.

The order of the samples is computed, not shuffled: a task is given step numbers, works out which samples its worker
needs there (intermoe/sampling.py), reads just those rows and prepares the batch. So nothing has to be skipped after
an interruption, and no buffer decides what is seen.

Legend: B samples of one worker in one step, T frames, P = 2 persons, F features, K text tokens, W text width.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import ray.data
import torch
from torch import Tensor

from intermoe.batches import Interactions, Window, cut_windows, interactions, pad_text, windows
from intermoe.sampling import Draw, batch_items, draw, held_out_draw
from intermoe.shards import DatasetFolder
from intermoe.skeletons import skeleton_named
from intermoe.swapping import Persons
from pipelines.cluster import quiet_data

Batch = dict[str, Tensor]

# Ray Data's executor lives in the training worker's process and takes half its time while it waits to be drained. So a
# plan is prepared whole, ahead of its use, and its executor ends: at most so many steps, of so many bytes.
_STEPS_OF_A_PLAN, _BYTES_OF_A_PLAN = 128, 256 * 1024**2
_STEPS_OF_A_TASK = 16


@dataclass(frozen=True)
class FeedConfig:
    """What to read and how to cut it.

    Attributes:
        dataset: the folder of shards.
        split: which of its splits.
        samples: "interactions" of both persons with a caption, or "windows" of one person without.
        seed: of order and draws.
        batch_size: samples of a step over all workers.
        parts: micro-batches of a step.
        max_frames: longer recordings are cropped.
        window: frames of a window.
        stride: frames between the starts of windows.
        augment: whether samples draw crop, swap, mirroring and caption.
        persons: which person of an interaction is the first: "drawn", or "named" first by the caption.
    """

    dataset: str
    split: str
    samples: Literal["interactions", "windows"]
    seed: int
    batch_size: int
    max_frames: int
    window: int = 64
    stride: int = 10
    augment: bool = True
    parts: int = 1
    persons: Persons = "drawn"

    def held_out(self, split: str) -> "FeedConfig":
        """The same samples of another split, without augmentation."""
        return replace(self, split=split, augment=False)


@lru_cache(maxsize=4)
def _items(feed: FeedConfig) -> list[Window]:
    """Every sample of the split; an interaction is the one window that begins at its start."""
    frames = DatasetFolder.open(feed.dataset).index(feed.split).frames.tolist()
    if feed.samples == "windows":
        return windows(frames, feed.max_frames, feed.window, feed.stride)
    return [Window(row, person=0, start=0) for row in range(len(frames))]


def count(feed: FeedConfig) -> int:
    """Samples of one epoch."""
    return len(_items(feed))


def sample_id(feed: FeedConfig, item: int) -> str:
    """What names a sample in messages and draws: its recording's id, and where its window begins."""
    sample = _items(feed)[item]
    recording = str(DatasetFolder.open(feed.dataset).index(feed.split).ids[sample.row])
    return f"{recording}/{sample.person}/{sample.start}" if feed.samples == "windows" else recording


def batches(feed: FeedConfig, first: int, last: int, rank: int, world: int) -> Iterator[Batch]:
    """One worker's batches of the steps ``first`` to ``last - 1``, streamed by Ray Data.

    Yields:
        For interactions: features [B, T, 2, F] (raw, T a multiple of 4), frames [B], states [B, K, W], mask [B, K],
        eot [B], caption [B] (its row in the data set), seed [B], item [B]. For windows: features [B, T, F],
        frames [B], seed [B], item [B].
    """
    steps = _steps_of_a_plan(feed, world)
    plans = [(start, min(start + steps, last)) for start in range(first, last, steps)]
    # The first batch of the next plan is asked for when this one begins, so that nobody waits between them.
    with ThreadPoolExecutor(1) as ahead:
        begun = deque(ahead.submit(_begin_plan, feed, *plan, rank, world) for plan in plans[:1])
        for number in range(len(plans)):
            block, stream = begun.popleft().result()
            begun.extend(ahead.submit(_begin_plan, feed, *plan, rank, world) for plan in plans[number + 1 : number + 2])
            while block is not None:
                yield _tensors(block)
                block = next(stream, None)


def _steps_of_a_plan(feed: FeedConfig, world: int) -> int:
    frames, persons = (feed.window, 1) if feed.samples == "windows" else (feed.max_frames, 2)
    skeleton = skeleton_named(DatasetFolder.open(feed.dataset).card.skeleton)
    step = feed.batch_size // world * frames * persons * skeleton.features * 4
    return max(_STEPS_OF_A_TASK, min(_STEPS_OF_A_PLAN, _BYTES_OF_A_PLAN // step))


def _begin_plan(
    feed: FeedConfig, start: int, end: int, rank: int, world: int
) -> tuple[dict[str, np.ndarray] | None, Iterator[dict[str, np.ndarray]]]:
    """The first batch of the steps ``start`` to ``end - 1``, and the stream of those that follow."""
    prepare = partial(_prepare_step, feed=feed, start=start, rank=rank, world=world)
    with quiet_data() as options:
        options.execution_options.preserve_order = True
        plan = ray.data.range(end - start, override_num_blocks=-(-(end - start) // _STEPS_OF_A_TASK))
        prepared = plan.map_batches(prepare, batch_size=1, zero_copy_batch=True).materialize()
    share = feed.batch_size // world
    stream = iter(prepared.iter_batches(batch_size=share, batch_format="numpy", prefetch_batches=2))
    return next(stream, None), stream


def held_out_batches(feed: FeedConfig, rank: int, world: int) -> Iterator[Batch]:
    """One worker's share of a whole split, every sample once, read by the worker itself."""
    share = feed.batch_size // world
    mine = range(rank, count(feed), world)
    for first in range(0, len(mine), share):
        items = mine[first : first + share]
        draws = [held_out_draw(feed.seed, sample_id(feed, item)) for item in items]
        yield _tensors(_prepare(feed, list(items), draws))


def _prepare_step(block: dict[str, np.ndarray], feed: FeedConfig, start: int, rank: int, world: int) -> dict[str, Any]:
    pairs = list(
        batch_items(
            feed.seed,
            start + int(block["id"][0]),
            feed.batch_size,
            count(feed),
            rank=rank,
            world=world,
            parts=feed.parts,
        )
    )
    draws = [draw(feed.seed, epoch, sample_id(feed, item)) for epoch, item in pairs]
    return _prepare(feed, [item for _, item in pairs], draws)


def _prepare(feed: FeedConfig, items: list[int], draws: list[Draw]) -> dict[str, np.ndarray]:
    folder = DatasetFolder.open(feed.dataset)
    samples = [_items(feed)[item] for item in items]
    recordings = {row: folder.recording(feed.split, row) for row in {sample.row for sample in samples}}
    if feed.samples == "interactions" and feed.persons == "named":
        draws = [folder.in_named_order(recordings[s.row], drawn) for s, drawn in zip(samples, draws, strict=True)]
    # Windows of one recording that drew the same are cut from one motion: in validation dozens of them.
    keys = [(sample.row, drawn.crop, drawn.swap, drawn.mirror) for sample, drawn in zip(samples, draws, strict=True)]
    firsts = {key: place for place, key in reversed(list(enumerate(keys)))}
    motions = {key: recordings[samples[place].row] for key, place in firsts.items()}
    distinct = interactions(
        [motion.position_TPJ3 for motion in motions.values()],
        [motion.rotation_TPR6 for motion in motions.values()],
        [draws[place] for place in firsts.values()],
        skeleton_named(folder.card.skeleton),
        feed.max_frames,
    )
    number = {key: row for row, key in enumerate(motions)}
    rows_B = torch.tensor([number[key] for key in keys])
    batch = Interactions(distinct.features_BTPF[rows_B], distinct.frames_B[rows_B])
    columns = {"seed": torch.tensor([drawn.seed for drawn in draws]), "item": torch.tensor(items)}
    if feed.samples == "windows":
        features, frames = cut_windows(batch, samples, feed.window)
    else:
        features, frames = batch.features_BTPF, batch.frames_B
        # The VAE reads 4 frames at a time.
        features = torch.nn.functional.pad(features, (0, 0, 0, 0, 0, -features.shape[1] % 4))
        numbers = [motions[key].caption(drawn) for key, drawn in zip(keys, draws, strict=True)]
        captions = [folder.caption(caption) for caption in numbers]
        states, mask = pad_text([caption.state_KW for caption in captions], folder.card.max_tokens)
        columns |= {"states": states, "mask": mask, "eot": torch.tensor([caption.eot for caption in captions])}
        columns["caption"] = torch.tensor(numbers)
    return {name: tensor.numpy() for name, tensor in (columns | {"features": features, "frames": frames}).items()}


def _tensors(block: dict[str, np.ndarray]) -> Batch:
    """The batch as tensors of its own (Ray's arrays are read-only), cut to its longest sample."""
    batch = {name: torch.tensor(array) for name, array in block.items()}
    longest = int(batch["frames"].max())
    batch["features"] = batch["features"][:, : longest + -longest % 4].contiguous()
    return batch
