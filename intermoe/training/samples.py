"""The samples of a training step, and the batch made of them.

The order of the samples is computed, not shuffled (intermoe/data/draws.py): whoever asks for the batch of a step reads
just the rows that it needs. So nothing has to be skipped after an interruption, and no buffer decides what is seen.

Legend: B samples of one worker in one step, T frames, L latent frames, P persons, J joints, R = J - 1, F features,
Z latent numbers of a person-frame, K text tokens, W text width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.skeletons import Skeleton, skeleton_named
from intermoe.data.batches import Interactions, Window, cut_windows, interactions, stored_states, windows
from intermoe.data.draws import UNDRAWN, Draw, Stream, batch_items, draw, held_out_draw, normal, share_of, uniform
from intermoe.data.rows import MotionRow
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.networks.vae import STRIDE
from intermoe.text.captions import Persons
from intermoe.training.config import TrainingConfig

Batch = dict[str, Tensor]
"""One worker's samples of a step.

Of interactions: features [B, T, P, F] (raw, T a multiple of the frames of a latent), unless they are left out,
frames [B], states [B, K, W], mask [B, K], eot [B], caption [B] (its row in the data set), form [B] (a number for each
motion that comes again, -1 for a crop and for what is held out), seed [B], item [B]. Of windows: features [B, T, F],
frames [B], seed [B], item [B]. Besides what the stream is asked to draw: latent_noise and diffusion_noise
[B, L, P, Z], of windows [B, L, Z], and timestep [B, 2], two numbers in [0, 1).
"""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SampleStream:
    """The endless stream of samples that a network is trained on, and the batch of each step.

    Attributes:
        dataset: folder of the shards.
        split: which of its splits.
        kind: "interactions" of all persons with a caption, or "windows" of one person without.
        seed: of order and draws.
        batch_size: samples of a step over all workers.
        max_frames: longer recordings are cropped.
        window: frames of a window.
        stride: frames between the starts of windows.
        augment: whether samples draw crop, swap, mirroring and caption; if not, a sample is the same in every epoch.
        micro_batches: of a step.
        persons: which person of an interaction is the first: "drawn", or "named" first by the caption.
        drawn: what the training step is given of each sample's streams of random numbers. They are drawn here, ahead of
            the step, which on a GPU would wait for them.
        latent: latent numbers of a person in a latent frame, of which there is noise.
        frames_per_latent: frames of a latent frame.
        features: whether batches hold them. Where they do not, which needs ``is_whole``, ``form_features`` makes them.
        by_length: whether the samples of a step are of nearly one length; of interactions alone.
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
    drawn: tuple[Stream, ...] = ()
    latent: int = 0
    frames_per_latent: int = STRIDE
    features: bool = True
    by_length: bool = False

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        return len(_items(self))

    @property
    def steps_per_epoch(self) -> float:
        """Steps of one epoch; a batch may begin in one epoch and end in the next."""
        return self.num_samples / self.batch_size

    @property
    def is_whole(self) -> bool:
        """Whether no recording is cropped, so that each comes again and again in four forms at most."""
        frames = DatasetFolder.open(self.dataset).index(self.split).frames
        return self.kind == "interactions" and self.augment and int(frames.max(initial=0)) <= self.max_frames

    @property
    def bytes_per_sample(self) -> int:
        """The most bytes that a sample takes in ``arrays``: features, caption states, noise and all other columns."""
        card = DatasetFolder.open(self.dataset).card
        num_features, num_persons = self._skeleton.num_features, self._skeleton.num_persons
        stride = self.frames_per_latent
        integers = 8 * len(("seed", "item", "frames"))
        uniform = 8 * 2 * (Stream.TIMESTEP in self.drawn)
        normal = 4 * self.latent * len(self._noise)  # in a latent frame
        if self.kind == "windows":
            return self.window // stride * (4 * stride * num_features + normal) + uniform + integers
        latents = -(-(self.max_frames - 1) // stride)
        text = card.max_tokens * (4 * card.encoder.width + 1)  # states and their mask
        motion = latents * num_persons * (4 * stride * num_features * self.features + normal)
        return motion + text + uniform + integers + 8 * len(("eot", "caption", "form"))

    @property
    def _skeleton(self) -> Skeleton:
        return skeleton_named(DatasetFolder.open(self.dataset).card.skeleton)

    @property
    def _noise(self) -> tuple[Stream, ...]:
        """Those of the streams that are drawn which are of noise."""
        return tuple(stream for stream in self.drawn if stream != Stream.TIMESTEP)

    def held_out(self, split: str) -> "SampleStream":
        """The same samples of another split, with their features and without augmentation."""
        return replace(self, split=split, augment=False, features=True)

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
        frames = DatasetFolder.open(self.dataset).index(self.split).frames
        lengths = np.minimum(frames, self.max_frames) if self.by_length else None
        whole = batch_items(self.seed, step, self.batch_size, self.num_samples, lengths)
        pairs = share_of(whole, rank=rank, world=world, micro_batches=self.micro_batches)
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
        return draw(self.seed, epoch, self.sample_id(item)).allowed(self._skeleton)

    def form_features(self, form: int) -> Tensor:
        """The features [1, T, P, F] of a motion that comes again, by its number in the column ``form``."""
        row, drawn = form // 4, replace(UNDRAWN, swap=bool(form & 2), mirror=bool(form & 1))
        folder = DatasetFolder.open(self.dataset)
        return self._interactions(folder, {(row, drawn): folder.recording(self.split, row)}).features_BTPF

    def _form(self, frames: int, row: int, drawn: Draw) -> int:
        """The number of a recording that is used whole, as it is, swapped, mirrored or both."""
        return 4 * row + 2 * drawn.swap + drawn.mirror if self.augment and frames <= self.max_frames else -1

    def _prepare(self, items: Sequence[int], draws: Sequence[Draw]) -> Arrays:
        folder = DatasetFolder.open(self.dataset)
        samples = [_items(self)[item] for item in items]
        rows = [sample.row for sample in samples]
        frames = folder.index(self.split).frames
        motions = {row: folder.recording(self.split, row) for row in set(rows)} if self.features else {}
        headers = motions or folder.headers(self.split)
        if self.kind == "interactions" and self.persons == "named":
            draws = [folder.in_named_order(headers[row], drawn) for row, drawn in zip(rows, draws, strict=True)]
        seeds = [drawn.seed for drawn in draws]
        columns = {"seed": torch.tensor(seeds), "item": torch.tensor(list(items))}
        if self.features:
            columns |= self._features(folder, samples, draws, motions)
        else:
            columns["frames"] = torch.tensor([int(frames[row]) - 1 for row in rows])
        if self.kind == "interactions":
            captions = [headers[row].caption(drawn) for row, drawn in zip(rows, draws, strict=True)]
            text = stored_states(folder, captions)
            columns |= {"states": text.states_BKW, "mask": text.mask_BK, "eot": text.eot_B}
            forms = [self._form(int(frames[row]), row, drawn) for row, drawn in zip(rows, draws, strict=True)]
            columns |= {"caption": torch.tensor(captions), "form": torch.tensor(forms)}
        columns |= self._drawn(seeds, -(-int(columns["frames"].max()) // self.frames_per_latent))
        return {name: tensor.numpy() for name, tensor in columns.items()}

    def _features(
        self, folder: DatasetFolder, samples: Sequence[Window], draws: Sequence[Draw], motions: Mapping[int, MotionRow]
    ) -> Batch:
        # Windows of one recording that drew the same are cut from one motion: in validation dozens of them.
        keys = [(sample.row, replace(drawn, caption=0, seed=0)) for sample, drawn in zip(samples, draws, strict=True)]
        place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        batch = self._interactions(folder, {key: motions[key[0]] for key in place})
        if len(place) < len(keys):
            rows_B = torch.tensor([place[key] for key in keys])
            batch = Interactions(batch.features_BTPF[rows_B], batch.frames_B[rows_B])
        if self.kind == "interactions":
            return {"features": batch.features_BTPF, "frames": batch.frames_B}
        features_BTF, frames_B = cut_windows(batch, samples, self.window)
        longest = int(frames_B.max())
        return {"features": features_BTF[:, : longest + -longest % self.frames_per_latent], "frames": frames_B}

    def _interactions(self, folder: DatasetFolder, motions: Mapping[tuple[int, Draw], MotionRow]) -> Interactions:
        """The interactions of recordings, by their row and draw."""
        return interactions(
            list(motions.values()),
            [drawn for _, drawn in motions],
            skeleton_named(folder.card.skeleton),
            self.max_frames,
            multiple=self.frames_per_latent,
        )

    def _drawn(self, seeds: Sequence[int], latents: int) -> Batch:
        """The columns of what the step is given of the samples' random numbers."""
        shape = (latents, self.latent) if self.kind == "windows" else (latents, self._skeleton.num_persons, self.latent)
        columns = {f"{stream.name.lower()}_noise": normal(seeds, shape, stream) for stream in self._noise}
        if Stream.TIMESTEP in self.drawn:
            columns["timestep"] = uniform(seeds, 2, Stream.TIMESTEP)
        return columns


def interaction_stream(dataset: str, training: TrainingConfig, data: DataConfig, seed: int) -> SampleStream:
    """Interactions of the training split, with their captions; ``UserError`` as for ``DatasetFolder.check_persons``."""
    DatasetFolder.open(dataset).check_persons(data.persons)
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


def as_batch(arrays: Arrays, *, pinned: bool = False) -> Batch:
    """Tensors of their own (Ray's arrays are read-only); in pinned memory for a GPU, which then copies on the side."""
    batch = {}
    for name, array in arrays.items():
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        batch[name] = torch.empty(array.shape, dtype=dtype, pin_memory=pinned)
        batch[name].numpy()[:] = array
    return batch


@lru_cache(maxsize=4)
def _items(stream: SampleStream) -> list[Window]:
    """Every sample of the split; an interaction is the one window that begins at its start."""
    frames = DatasetFolder.open(stream.dataset).index(stream.split).frames.tolist()
    if stream.kind == "windows":
        skeleton = skeleton_named(DatasetFolder.open(stream.dataset).card.skeleton)
        return windows(frames, stream.max_frames, stream.window, stream.stride, skeleton.num_persons)
    return [Window(row, person=0, start=0) for row in range(len(frames))]
