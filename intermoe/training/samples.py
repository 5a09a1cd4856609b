"""The samples of a training step, and the batch made of them.

The order of the samples is computed, not shuffled (intermoe/data/draws.py): whoever asks for the batch of a step reads
just the rows that it needs. So nothing has to be skipped after an interruption, and no buffer decides what is seen.

Legend: B samples of one worker in one step, T frames, P = 2 persons, J joints, R = J - 1, F features, K text
tokens, W text width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.skeletons import skeleton_named
from intermoe.data.batches import Interactions, Window, cut_windows, interactions, pad_text, windows
from intermoe.data.draws import Draw, batch_items, draw, held_out_draw
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.networks.vae import STRIDE
from intermoe.text.captions import Persons
from intermoe.training.config import TrainingConfig

Batch = dict[str, Tensor]
"""One worker's samples of a step.

Of interactions: features [B, T, 2, F] (raw, T a multiple of 4), frames [B], states [B, K, W], mask [B, K], eot [B],
caption [B] (its row in the data set), form [B] (a number for each motion that comes again, -1 for a crop and
for what is held out), seed [B], item [B]. Of windows: features [B, T, F], frames [B], seed [B],
item [B].
"""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SampleStream:
    """The endless stream of samples that a network is trained on, and the batch of each step.

    Attributes:
        dataset: folder of the shards.
        split: which of its splits.
        kind: "interactions" of both persons with a caption, or "windows" of one person without.
        seed: of order and draws.
        batch_size: samples of a step over all workers.
        max_frames: longer recordings are cropped.
        window: frames of a window.
        stride: frames between the starts of windows.
        augment: whether samples draw crop, swap, mirroring and caption; if not, a sample is the same in every epoch.
        micro_batches: of a step.
        persons: which person of an interaction is the first: "drawn", or "named" first by the caption.
    """

    dataset: str
    split: str
    kind: Literal["interactions", "windows"]
    seed: int
    batch_size: int
    max_frames: int
    window: int = 64
    stride: int = 10
    augment: bool = True
    micro_batches: int = 1
    persons: Persons = "drawn"

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        return len(_items(self))

    @property
    def steps_per_epoch(self) -> float:
        """Steps of one epoch; a batch may begin in one epoch and end in the next."""
        return self.num_samples / self.batch_size

    @property
    def bytes_per_sample(self) -> int:
        """The most bytes that a sample takes in ``arrays``: features, caption states and all other columns."""
        card = DatasetFolder.open(self.dataset).card
        num_features = skeleton_named(card.skeleton).num_features
        integers = 8 * len(("seed", "item", "frames"))
        if self.kind == "windows":
            return 4 * self.window * num_features + integers
        frames = self.max_frames + -self.max_frames % STRIDE
        text = card.max_tokens * (4 * card.encoder.width + 1)  # states and their mask
        return 4 * frames * 2 * num_features + text + integers + 8 * len(("eot", "caption", "form"))

    def held_out(self, split: str) -> "SampleStream":
        """The same samples of another split, without augmentation."""
        return replace(self, split=split, augment=False)

    def sample_id(self, item: int) -> str:
        """The name of a sample in messages and draws: its recording's id, and the start of its window."""
        sample = _items(self)[item]
        recording = str(DatasetFolder.open(self.dataset).index(self.split).ids[sample.row])
        return f"{recording}/{sample.person}/{sample.start}" if self.kind == "windows" else recording

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """The share of worker ``rank`` of ``world`` in the batch of a step."""
        return as_batch(self.arrays(step, rank=rank, world=world))

    def arrays(self, step: int, *, rank: int, world: int) -> Arrays:
        """The arrays that :func:`as_batch` makes a batch of, in the form that travels between processes."""
        share = batch_items(
            self.seed, step, self.batch_size, self.num_samples, rank=rank, world=world, micro_batches=self.micro_batches
        )
        pairs = list(share)
        draws = [self._draw(epoch, item) for epoch, item in pairs]
        return self._prepare([item for _, item in pairs], draws)

    def held_out_batches(self, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """One worker's share of the whole split, every sample once, with the same draws every time."""
        share = self.batch_size // world
        mine = range(rank, self.num_samples, world)
        for first in range(0, len(mine), share):
            items = mine[first : first + share]
            draws = [held_out_draw(self.seed, self.sample_id(item)) for item in items]
            yield as_batch(self._prepare(items, draws))

    def _draw(self, epoch: int, item: int) -> Draw:
        if not self.augment:
            return held_out_draw(self.seed, self.sample_id(item))
        return draw(self.seed, epoch, self.sample_id(item))

    def _prepare(self, items: Sequence[int], draws: Sequence[Draw]) -> Arrays:
        folder = DatasetFolder.open(self.dataset)
        samples = [_items(self)[item] for item in items]
        recordings = {row: folder.recording(self.split, row) for row in {sample.row for sample in samples}}
        if self.kind == "interactions" and self.persons == "named":
            draws = [folder.in_named_order(recordings[s.row], drawn) for s, drawn in zip(samples, draws, strict=True)]
        # Windows of one recording that drew the same are cut from one motion: in validation dozens of them.
        keys = [
            (sample.row, drawn.crop, drawn.swap, drawn.mirror) for sample, drawn in zip(samples, draws, strict=True)
        ]
        firsts: dict[tuple[int, float, bool, bool], int] = {}
        for place, key in enumerate(keys):
            firsts.setdefault(key, place)
        motions = {key: recordings[samples[place].row] for key, place in firsts.items()}
        distinct = interactions(
            [motion.position_TPJ3 for motion in motions.values()],
            [motion.rotation_TPR6 for motion in motions.values()],
            [draws[place] for place in firsts.values()],
            skeleton_named(folder.card.skeleton),
            self.max_frames,
            multiple=STRIDE,
        )
        number = {key: row for row, key in enumerate(motions)}
        rows_B = torch.tensor([number[key] for key in keys])
        # Of interactions hardly any comes twice.
        batch = (
            distinct
            if len(motions) == len(keys)
            else Interactions(distinct.features_BTPF[rows_B], distinct.frames_B[rows_B])
        )
        columns = {"seed": torch.tensor([drawn.seed for drawn in draws]), "item": torch.tensor(list(items))}
        if self.kind == "windows":
            features, frames = cut_windows(batch, samples, self.window)
        else:
            features, frames = batch.features_BTPF, batch.frames_B
            numbers = [motions[key].caption(drawn) for key, drawn in zip(keys, draws, strict=True)]
            captions = [folder.caption(caption) for caption in numbers]
            states, mask = pad_text([caption.state_KW for caption in captions], folder.card.max_tokens)
            columns |= {"states": states, "mask": mask, "eot": torch.tensor([caption.eot for caption in captions])}
            columns["caption"] = torch.tensor(numbers)
            forms = zip(keys, samples, draws, strict=True)
            columns["form"] = torch.tensor(
                [self._form(len(motions[key].position_TPJ3), sample.row, drawn) for key, sample, drawn in forms]
            )
        return {name: tensor.numpy() for name, tensor in (columns | {"features": features, "frames": frames}).items()}

    def _form(self, frames: int, row: int, drawn: Draw) -> int:
        """The number of a recording that is used whole, as it is, swapped, mirrored or both."""
        return 4 * row + 2 * drawn.swap + drawn.mirror if self.augment and frames <= self.max_frames else -1


def interaction_stream(dataset: str, training: TrainingConfig, data: DataConfig, seed: int) -> SampleStream:
    """Interactions of the training split, with their captions."""
    return SampleStream(
        dataset=dataset,
        split="train",
        kind="interactions",
        seed=seed,
        batch_size=training.batch_size,
        max_frames=data.max_frames,
        micro_batches=training.accumulate,
        persons=data.persons,
    )


def as_batch(arrays: Arrays) -> Batch:
    """Tensors of their own (Ray's arrays are read-only), cut to the longest sample."""
    batch = {name: torch.tensor(array) for name, array in arrays.items()}
    longest = int(batch["frames"].max())
    batch["features"] = batch["features"][:, : longest + -longest % STRIDE].contiguous()
    return batch


@lru_cache(maxsize=4)
def _items(stream: SampleStream) -> list[Window]:
    """Every sample of the split; an interaction is the one window that begins at its start."""
    frames = DatasetFolder.open(stream.dataset).index(stream.split).frames.tolist()
    if stream.kind == "windows":
        return windows(frames, stream.max_frames, stream.window, stream.stride)
    return [Window(row, person=0, start=0) for row in range(len(frames))]
