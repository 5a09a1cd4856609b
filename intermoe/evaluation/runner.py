"""What a Ray actor does in an evaluation: job after job, make the motions, embed them, measure them, write a file.

Legend: B samples, T frames, L latent frames, P = 2 persons, F features, Z latent numbers, E embedding, K kinds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.features import exchange_persons, joints_from_features
from intermoe.data.batches import interactions, pad_text
from intermoe.data.draws import normal
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.evaluator import Evaluator
from intermoe.evaluation.identity import actors
from intermoe.evaluation.plausibility import plausibility
from intermoe.evaluation.protocol import GENERATING, ROWS, EvaluationConfig, Job, Row, Sample, plan
from intermoe.files import flush
from intermoe.model import VAE_PARTS, InterMoE
from intermoe.networks.vae import STRIDE
from intermoe.text.captions import Persons
from intermoe.text.encoders import TextEncoder, TextStates, load_encoder

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """What is evaluated with what; plain values, to be sent to other processes.

    Attributes:
        model: the checkpoint of the model.
        evaluator: the run or checkpoint of the evaluator.
        dataset: the folder of shards.
        split: whose recordings and captions are used.
        config: how to evaluate.
        rows: which rows of the table are wanted.
        seed: of all that is drawn.
        guidance: scale of classifier-free guidance; the model's own if None.
        text_folder: where CLIP's tokenizer lies, if not in the hub's cache.
        threads: of each worker; how a sum is split over threads shows in its last bits.
        model_seed: of the weights of the untrained model.
    """

    model: str
    evaluator: str
    dataset: str
    split: str
    config: dict[str, Any]
    rows: tuple[Row, ...]
    seed: int
    guidance: float | None
    text_folder: str | None
    threads: int
    model_seed: int


def jobs_of(request: Request, max_frames: int, persons: Persons) -> list[Job]:
    """The plan of an evaluation, the same in every process."""
    config = EvaluationConfig.parse(request.config)
    folder = DatasetFolder.open(request.dataset)
    return plan(
        folder,
        config,
        seed=request.seed,
        max_frames=max_frames,
        persons=persons,
        rows=request.rows,
        split=request.split,
    )


class Embedder:
    """Holds the networks, and computes jobs by their numbers."""

    def __init__(self, request: Request, parts: str, gpu: bool) -> None:
        """Load the networks.

        Args:
            request: what is evaluated.
            parts: folder of the files, on storage that all nodes share.
            gpu: whether to compute on a GPU.
        """
        torch.set_num_threads(request.threads)
        self.request, self.parts = request, Path(parts)
        self.device = "cuda" if gpu else "cpu"
        self.folder = DatasetFolder.open(request.dataset)
        self.model = InterMoE.load(request.model, device=self.device)
        self.evaluator = Evaluator.load(request.evaluator, device=self.device)
        self.jobs = jobs_of(request, self.model.config.data.max_frames, self.evaluator.data.persons)

    def __call__(self, block: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """Compute the jobs of a block; Ray Data's form of calling."""
        answers: dict[str, list[Any]] = {"job": [], "error": [], "began": [], "ended": []}
        for number in block["job"].tolist():
            began, error = time.time(), ""
            try:
                self.compute(self.jobs[number])
            except UserError as problem:  # as a value, since Ray wraps what is raised into errors of its own
                error = str(problem)
            for name, value in (("job", number), ("error", error), ("began", began), ("ended", time.time())):
                answers[name].append(value)
        return answers

    @torch.no_grad()
    def compute(self, job: Job) -> None:
        """Do one job and write its file, whole or not at all."""
        features_BTPF, frames_B = self._made(job) if job.purpose in GENERATING else self._recorded(job)
        if not features_BTPF.isfinite().all():
            raise UserError("the model's output is not finite", where=self.request.model)
        found: Arrays = {"motion": self.evaluator.embed_motion(features_BTPF, frames_B).cpu().numpy()}
        joints = [
            joints_from_features(features_BTPF[row, :frames], self.model.skeleton).cpu().numpy()
            for row, frames in enumerate(frames_B.tolist())
        ]
        if job.purpose in ROWS:
            found["text"] = self.evaluator.embed_text(self._read(job)).cpu().numpy()
            measured = [plausibility(joints_TPJ3, self.model.skeleton) for joints_TPJ3 in joints]
            found |= {name: np.array([one[name] for one in measured]) for name in measured[0]}
        if job.purpose in (*ROWS, "swapped"):
            found["actor"] = np.stack([actors(joints_TPJ3) for joints_TPJ3 in joints])
        partial = self.parts / f".{job.name}.npz"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
        flush(partial)
        partial.replace(self.parts / f"{job.name}.npz")

    def _recorded(self, job: Job) -> tuple[Tensor, Tensor]:
        """Features [B, T, 2, F] of the recordings, and their valid frames [B]."""
        recordings = [self.folder.recording(self.request.split, sample.row) for sample in job.samples]
        batch = interactions(
            [recording.position_TPJ3 for recording in recordings],
            [recording.rotation_TPR6 for recording in recordings],
            [sample.drawn for sample in job.samples],
            self.model.skeleton,
            self.model.config.data.max_frames,
        )
        longest = int(batch.frames_B.max())
        return batch.features_BTPF[:, :longest].to(self.device), batch.frames_B.to(self.device)

    def _made(self, job: Job) -> tuple[Tensor, Tensor]:
        """Features [B, T, 2, F] of motions from the captions, as long as the recordings, and their frames [B]."""
        model = self.untrained if job.purpose == "untrained" else self.model
        frames_B = torch.tensor([sample.frames for sample in job.samples])
        latents_B = (frames_B + STRIDE - 1) // STRIDE
        length = int(latents_B.max())
        mask_BL = torch.arange(length) < latents_B[:, None]
        seeds = [sample.drawn.seed for sample in job.samples]
        exchanged_B = torch.tensor([model.exchanges(self.folder.caption(one.caption).text) for one in job.samples])
        pairs = zip(job.samples, exchanged_B.tolist(), strict=True)
        captions = [self._exchanged(sample) if exchanged else sample.caption for sample, exchanged in pairs]
        noise_BLPZ = normal(seeds, (length, 2, model.latent), stream=0) * mask_BL[:, :, None, None]
        latent_BLPZ = model.sample(
            noise_BLPZ.to(self.device),
            model.condition(self._states(captions)),
            mask_BL=mask_BL.to(self.device),
            guidance=self.request.guidance,
        )
        features_BTPF = model.decode(latent_BLPZ)[:, : int(frames_B.max())]
        return exchange_persons(features_BTPF, exchanged_B, model.skeleton), frames_B.to(self.device)

    def _exchanged(self, sample: Sample) -> int:
        """The row of the sample's caption with the names of the persons exchanged."""
        recording = self.folder.recording(self.request.split, sample.row)
        forms = (recording.captions, recording.swapped)
        one, other = forms if sample.caption in recording.captions else reversed(forms)
        return other[one.index(sample.caption)]

    def _states(self, rows: Sequence[int]) -> TextStates:
        """The frozen encoder's states of captions, which the data set holds."""
        captions = [self.folder.caption(row) for row in rows]
        states_BKW, mask_BK = pad_text([caption.state_KW for caption in captions], self.folder.card.max_tokens)
        return TextStates(states_BKW, mask_BK, torch.tensor([caption.eot for caption in captions]))

    def _read(self, job: Job) -> TextStates:
        """What the evaluator's text encoder reads of the captions."""
        if self.evaluator.config.text == "states":
            return self._states([sample.caption for sample in job.samples]).to(self.device)
        texts = [self.folder.caption(sample.caption).text for sample in job.samples]
        ids_BK, eot_B = self._tokenizer.tokens(texts)
        return self.evaluator.token_states(ids_BK.to(self.device), eot_B.to(self.device))

    @cached_property
    def _tokenizer(self) -> TextEncoder:
        text_folder = self.request.text_folder
        return load_encoder("clip", Path(text_folder) if text_folder else None)

    @cached_property
    def untrained(self) -> InterMoE:
        """The model as it was before training, with its trained VAE."""
        model = InterMoE.initial(self.model.config, seed=self.request.model_seed)
        for part in VAE_PARTS:
            model.get_submodule(part).load_state_dict(self.model.get_submodule(part).state_dict())
        return model.to(self.device).eval()


def read_parts(folder: Path, jobs: Sequence[Job]) -> dict[str, Arrays]:
    """What the jobs wrote, by their names; ``UserError`` where a file is damaged."""
    found: dict[str, Arrays] = {}
    for job in jobs:
        file = folder / f"{job.name}.npz"
        try:
            with np.load(file, allow_pickle=False) as stored:
                found[job.name] = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise UserError(f"cannot be read: {error}", where=file, allowed="delete it and evaluate again") from None
    return found
