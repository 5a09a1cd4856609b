"""The computation of an evaluation, job by job: generate or read the motions, embed and measure them, write a file.

Legend: B samples, T frames, P persons, J joints, R = J - 1, F features, K text tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.features import joints_from_features, motion_features
from intermoe.data.batches import interactions, stored_states
from intermoe.data.shards import DatasetFolder
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError
from intermoe.evaluation import measures
from intermoe.evaluation.evaluator import Evaluator, caption_words
from intermoe.evaluation.identity import actors
from intermoe.evaluation.protocol import GENERATING, EvaluationConfig, EvaluationJob, EvaluationSample, Form, plan
from intermoe.evaluation.replication import Row
from intermoe.files import whole_file
from intermoe.generation import GeneratedBatch, Sampled, unsettled_motion
from intermoe.layers.precision import products_in
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.places import Place
from intermoe.text.captions import Persons
from intermoe.text.encoders import TextEncoder, TextStates, load_encoder
from intermoe.text.words import Words

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class EvaluationSpec:
    """Model, evaluator, data and settings of an evaluation; plain values, to be sent to other processes.

    Attributes:
        model: the checkpoint of the model; None where recorded motion alone is looked at.
        evaluator: the run or checkpoint of the evaluator.
        dataset: the folder of shards.
        split: whose recordings and captions are used.
        config: how to evaluate.
        rows: which rows of the table are wanted.
        seed: of all that is drawn.
        diffusion: how motions are sampled.
        text_folder: where CLIP's tokenizer lies, if not in the hub's cache.
        threads: of each worker; how a sum is split over threads shows in its last bits.
        model_seed: of the weights of the untrained model.
    """

    model: str | None
    evaluator: str
    dataset: str
    split: str
    config: EvaluationConfig
    rows: tuple[Row, ...]
    seed: int
    diffusion: DiffusionConfig
    text_folder: str | None
    threads: int
    model_seed: int

    def jobs(self, max_frames: int, persons: Persons) -> list[EvaluationJob]:
        """The plan, the same in every process.

        Args:
            max_frames: longer recordings are cropped to that.
            persons: which person is the first, as the evaluator knows it.
        """
        return plan(
            DatasetFolder.open(self.dataset),
            self.config,
            seed=self.seed,
            max_frames=max_frames,
            persons=persons,
            rows=self.rows,
            split=self.split,
        )


@dataclass(frozen=True, eq=False)
class _Motions:
    """The motions of a job in one form: what the evaluator embeds, and the joints that are measured.

    Attributes:
        features_BTPF: raw features, on the device.
        frames_B: valid frames of them.
        joints: of each motion, [T, P, J, 3]. Those of recordings are in the canonical frame, where each person stands
            on the lowest point of all frames; those of settled motions are as users get them.
    """

    features_BTPF: Tensor
    frames_B: Tensor
    joints: Sequence[NDArray[np.float32]]


class RecordedRunner:
    """Holds the evaluator, and computes jobs of recorded motion; needs no model.

    Attributes:
        jobs: the plan.
    """

    def __init__(
        self, spec: EvaluationSpec, parts: Place, *, device: str = "cpu", max_frames: int | None = None
    ) -> None:
        """Load the evaluator.

        Args:
            spec: what is evaluated.
            parts: folder of the jobs' files.
            device: where to compute.
            max_frames: longer recordings are cropped to that; those of the evaluator if None.
        """
        self.spec, self.parts, self.device = spec, parts, device
        self.folder = DatasetFolder.open(spec.dataset)
        self.evaluator = Evaluator.load(spec.evaluator, device=device)
        self.skeleton = self.evaluator.skeleton
        self.max_frames = self.evaluator.data.max_frames if max_frames is None else max_frames
        self.jobs = spec.jobs(self.max_frames, self.evaluator.data.persons)

    @torch.no_grad()
    def run(self, job: EvaluationJob) -> None:
        """Do one job and write its file, whole or not at all.

        Raises:
            UserError: the model's output is not finite, or the disk refuses to be written.
        """
        arrays: Arrays = {}
        if job.purpose == "captions":
            with self._products():
                arrays["text"] = self.evaluator.embed_text(self._texts(job)).cpu().numpy()
        for form, motions in self._motions(job):
            arrays |= {f"{form}/{name}": self._taken(name, motions) for name in job.arrays}
        with whole_file(self.parts / f"{job.name}.npz") as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def _taken(self, name: str, motions: _Motions) -> NDArray[Any]:
        """One of a job's ``arrays``."""
        if name == "motion":
            with self._products():
                return self.evaluator.embed_motion(motions.features_BTPF, motions.frames_B).cpu().numpy()
        if name == "actor":
            return np.stack([actors(joints_TPJ3) for joints_TPJ3 in motions.joints])
        take = measures.of_each_motion()[name]
        return np.array([take(joints_TPJ3, self.skeleton) for joints_TPJ3 in motions.joints])

    def _products(self) -> AbstractContextManager[object]:
        return products_in(self.spec.config.precision, self.evaluator.normaliser.mean_F.device)

    def _motions(self, job: EvaluationJob) -> Iterator[tuple[Form, _Motions]]:
        """The motions of a job in each of its forms."""
        if job.forms:
            yield "recorded", self._raw(*self._recorded(job))

    def _recorded(self, job: EvaluationJob) -> tuple[Tensor, Tensor]:
        """Features [B, T, P, F] of the recordings and their frames [B]."""
        recordings = [self.folder.recording(self.spec.split, sample.row) for sample in job.samples]
        batch = interactions(
            recordings,
            [sample.drawn for sample in job.samples],
            self.skeleton,
            self.max_frames,
        )
        longest = int(batch.frames_B.max())
        return batch.features_BTPF[:, :longest], batch.frames_B

    def _raw(self, features_BTPF: Tensor, frames_B: Tensor) -> _Motions:
        """Motions whose joints are those of the features."""
        joints_BPTJ3 = joints_from_features(features_BTPF.transpose(1, 2), self.skeleton)
        joints_BTPJ3 = joints_BPTJ3.transpose(1, 2).cpu().numpy()
        joints = [joints_BTPJ3[row, :frames] for row, frames in enumerate(frames_B.tolist())]
        return _Motions(features_BTPF.to(self.device), frames_B.to(self.device), joints)

    def _texts(self, job: EvaluationJob) -> TextStates | Words:
        """What the evaluator's text encoder reads of the captions."""
        captions = [sample.caption for sample in job.samples]
        if self.evaluator.config.reads == "words":
            return self.evaluator.words([self._words[caption] for caption in captions])
        if self.evaluator.config.reads == "states":
            return stored_states(self.folder, captions).to(self.device)
        ids_BK, eot_B = self._tokenizer.tokens([self.folder.caption(caption).text for caption in captions])
        return self.evaluator.token_states(ids_BK.to(self.device), eot_B.to(self.device))

    @cached_property
    def _words(self) -> list[str]:
        return caption_words(self.folder)

    @cached_property
    def _tokenizer(self) -> TextEncoder:
        text_folder = self.spec.text_folder
        return load_encoder("clip", Path(text_folder) if text_folder else None)


class JobRunner(RecordedRunner):
    """Holds a model and an evaluator, and computes all jobs."""

    def __init__(self, spec: EvaluationSpec, parts: Place, *, device: str = "cpu") -> None:
        """Load the networks; arguments as for ``RecordedRunner``, of a spec that names a model."""
        assert spec.model is not None
        self.model = InterMoE.load(spec.model, device=device)
        self.model.diffusion = Diffusion(spec.diffusion)
        super().__init__(spec, parts, device=device, max_frames=self.model.config.data.max_frames)

    @torch.no_grad()
    def recorded_and_generated(self, samples: Sequence[EvaluationSample]) -> list[tuple[Motion, Motion]]:
        """Of each sample, the motion as it was recorded and as users get it from its caption.

        The noise is that of the evaluation; as the batch is another one, so may be the last digits, or, where experts
        choose among the tokens of a batch, the motion.
        """
        job = EvaluationJob("generated", 0, tuple(samples), ((),) * len(samples), ("settled",), tells_roles=False)
        captions = [self.folder.caption(sample.caption).text for sample in samples]
        features_BTPF, frames_B = self._recorded(job)
        recorded = [
            unsettled_motion(features_BTPF[row, :frames], captions[row], self.model.skeleton)
            for row, frames in enumerate(frames_B.tolist())
        ]
        return list(zip(recorded, self._generated(job).motions(captions), strict=True))

    def _motions(self, job: EvaluationJob) -> Iterator[tuple[Form, _Motions]]:
        """The motions of a job in each of its forms; generated ones come from one pass of sampling."""
        if job.purpose not in (*GENERATING, "reconstructed"):
            yield from super()._motions(job)
            return
        batch = self._reconstructed(job) if job.purpose == "reconstructed" else self._generated(job)
        for form in job.forms:
            raw = form == "raw"
            yield form, self._raw(batch.features_BTPF, batch.frames_B) if raw else self._settled(batch)

    def _reconstructed(self, job: EvaluationJob) -> GeneratedBatch:
        """The recordings through the VAE and back, without the last frames, which fill no latent frame."""
        features_BTPF, frames_B = (of_recordings.to(self.device) for of_recordings in self._recorded(job))
        frames_B = self.model.whole_frames(frames_B)
        mask_BT = torch.arange(features_BTPF.shape[1], device=frames_B.device) < frames_B[:, None]
        reconstructed_BTPF = self.model.decode(self.model.encode(features_BTPF, mask_BT=mask_BT), frames_B)
        return GeneratedBatch.settled(Sampled(reconstructed_BTPF), frames_B, self.model.skeleton)

    def _generated(self, job: EvaluationJob) -> GeneratedBatch:
        """Motions from the captions of the samples, as long as their recordings."""
        model = self.untrained if job.purpose == "untrained" else self.model
        headers = self.folder.headers(self.spec.split)
        conditions = model.read_captions(
            self.folder, [headers[sample.row] for sample in job.samples], [sample.caption for sample in job.samples]
        )
        return model.generate_batch(
            conditions,
            frames_B=torch.tensor([sample.frames for sample in job.samples]),
            seeds=[sample.drawn.seed for sample in job.samples],
        )

    def _settled(self, batch: GeneratedBatch) -> _Motions:
        """Motions as users get them: their joints, and features made of them as of a recording's."""
        features_BTPF, frames_B = motion_features(
            batch.joints_BTPJ3, batch.rotations_BTPR6, batch.frames_B, self.model.skeleton
        )
        joints = [batch.joints_BTPJ3[row, :frames].numpy() for row, frames in enumerate(batch.frames_B.tolist())]
        return _Motions(features_BTPF.to(self.device), frames_B.to(self.device), joints)

    @cached_property
    def untrained(self) -> InterMoE:
        """The model as it was before training, with its trained VAE, if it has one."""
        model = InterMoE.initial(self.model.config, seed=self.spec.model_seed)
        for part in self.model.config.codec_parts:
            model.get_submodule(part).load_state_dict(self.model.get_submodule(part).state_dict())
        model.diffusion = self.model.diffusion
        return model.to(self.device).eval()


def read_parts(folder: Place, jobs: Sequence[EvaluationJob]) -> dict[str, Arrays]:
    """The results of the jobs, by name; ``UserError`` where a file is damaged or incomplete."""
    parts: dict[str, Arrays] = {}
    for job in jobs:
        file = folder / f"{job.name}.npz"
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                parts[job.name] = {name: stored[name] for name in stored.files}
            if missing := sorted(job.file_arrays - parts[job.name].keys()):
                raise ValueError(f"it holds no {missing[0]}")
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise UserError(f"cannot be read: {error}", where=file, allowed="delete it and evaluate again") from None
    return parts
