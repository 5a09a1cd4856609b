"""InterMoE whole: the VAE, the text head and the denoiser as one thing that turns prompts into motion.

Legend: B batch, T frames, L latent frames (T / 4), P = 2 persons, F features, N latent joints, C channels of one,
Z = N * C, J joints, R = J - 1, K text tokens, W text width.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.body.features import Normaliser, exchange_persons
from intermoe.body.skeletons import skeleton_named
from intermoe.config import Config
from intermoe.data.batches import stored_states
from intermoe.data.draws import Stream, normal, prompt_seeds
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.diffusion import samplers
from intermoe.diffusion.guidance import guided
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError, UserNote
from intermoe.generation import Conditions, GeneratedBatch, check_prompts, eval_mode, frames_of
from intermoe.layers.precision import in_full, products_in
from intermoe.layers.stored_weights import check_fit
from intermoe.moe.config import MoeConfig
from intermoe.motion import Motion
from intermoe.networks.denoiser import Denoiser, DenoiserConfig
from intermoe.networks.vae import STRIDE, CausalSkeletalVae, Posterior, VaeConfig
from intermoe.places import Place, as_place, is_folder
from intermoe.text.captions import named_first, swap_caption
from intermoe.text.encoders import TextEncoder, TextStates, encoder_width, load_encoder
from intermoe.text.head import TextHead

VAE_PARTS = ("normaliser", "vae")
PARTS = (*VAE_PARTS, "text_head", "denoiser")
# Of all motions that are generated at a time: what a training step of the paper's sizes holds of half its samples.
_FRAMES_PER_BATCH = 32 * 300


class ModelConfig(Config):
    """Everything that defines the networks."""

    data: DataConfig = DataConfig()
    vae: VaeConfig = VaeConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    moe: MoeConfig = MoeConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

    @classmethod
    def load(cls, path: str | Place) -> Self:
        """The config of trained networks; their weights are not read.

        Args:
            path: a checkpoint, or the folder of a training run (then its best checkpoint).

        Raises:
            UserError: no checkpoint there, a damaged one, or one without a config of networks.
        """
        folder = trained_folder(path)
        stored = checkpoint.documents(folder).get("config")
        if not isinstance(stored, dict):
            raise UserError("holds no config, so it is not a model", where=folder, allowed="a run of `intermoe train`")
        # That of a run says more, such as how it was trained.
        return cls.parse({key: value for key, value in stored.items() if key in cls.model_fields}, where=folder)


def trained_folder(path: str | Place) -> Place:
    """The checkpoint that is meant: the best of a training run, or the folder itself."""
    folder = as_place(path)
    best = folder / "best"
    return best if is_folder(best) else folder


class InterMoE(nn.Module):
    """The generator of two-person motion from text.

    Example:
        ``InterMoE.load("runs/duet/denoiser").generate("Two people bow.", seconds=4, seed=0).save("bow.mp4")``
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.skeleton = skeleton_named(config.data.skeleton)
        width = encoder_width(config.data.encoder)
        self.normaliser = Normaliser(self.skeleton.num_features)
        self.vae = CausalSkeletalVae(config.vae, self.skeleton)
        self.latent = len(self.skeleton.pools[-1].groups) * config.vae.latent
        self.text_head = TextHead(
            width,
            layers=config.denoiser.text_layers,
            hidden=config.denoiser.text_hidden,
            heads=config.denoiser.text_heads,
            dropout=config.denoiser.dropout,
        )
        self.denoiser = Denoiser(config.denoiser, config.moe, latent=self.latent, condition=width)
        self.diffusion = Diffusion(config.diffusion)
        self._encoder: TextEncoder | None = None
        self._text_folder: Path | None = None

    @classmethod
    def initial(cls, config: ModelConfig, normaliser: Normaliser | None = None, *, seed: int = 0) -> Self:
        """The networks as they are before any training: the same seed gives the same weights.

        Args:
            config: of the networks.
            normaliser: of the data they are trained on.
            seed: of the weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(config)
        if normaliser is not None:
            model.normaliser = normaliser
        return model

    @classmethod
    def load(
        cls,
        path: str | Place,
        *,
        device: str | torch.device = "cpu",
        text_folder: Path | None = None,
        parts: Sequence[str] = PARTS,
    ) -> Self:
        """A trained model.

        Args:
            path: a checkpoint, or the folder of a training run (then its best checkpoint).
            device: of the networks; ``best_device()`` is the fastest of this machine.
            text_folder: where CLIP's weights lie, if not in the user's hub cache.
            parts: what the checkpoint must hold; with ``VAE_PARTS`` alone, the model can encode and decode.

        Raises:
            UserError: no checkpoint there, a damaged one, or one without these parts.
        """
        folder = trained_folder(path)
        saved = checkpoint.load(folder, device=str(device))
        config = ModelConfig.load(folder)
        missing = [part for part in parts if part not in saved.tensors]
        if missing:
            raise UserError(f"holds no {' and no '.join(missing)}", where=folder, allowed="a run of `train denoiser`")
        check_fit(lambda: cls(config), {name: saved.tensors[name] for name in parts}, where=folder)
        model = cls(config)
        model.restore(saved, parts)
        model._text_folder = text_folder
        return model.to(device).eval()

    def restore(self, saved: checkpoint.Checkpoint, parts: Sequence[str]) -> None:
        """Take over the named parts of a checkpoint."""
        for name in parts:
            self.get_submodule(name).load_state_dict(saved.tensors[name])

    def parts(self) -> dict[str, nn.Module]:
        """The modules that a checkpoint holds, by name."""
        return {name: self.get_submodule(name) for name in PARTS}

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.normaliser.mean_F.device

    def encode(self, features_BTPF: Tensor, noise_BLPZ: Tensor | None = None, mask_BT: Tensor | None = None) -> Tensor:
        """Latents [B, L, 2, Z] of raw features.

        Args:
            features_BTPF: raw features of both persons.
            noise_BLPZ: what a sample of the posterior is drawn with; without it, the latents are its mean.
            mask_BT: bool, valid frames; all where none is given. Latents beyond them are zero.
        """
        if mask_BT is None:
            mask_BT = features_BTPF.new_ones(features_BTPF.shape[:2], dtype=torch.bool)
        latent_BLPZ = self.posterior(features_BTPF, mask_BT).interactions(noise_BLPZ)
        mask_BL = mask_BT[:, : latent_BLPZ.shape[1] * STRIDE].unflatten(1, (-1, STRIDE)).all(dim=2)
        return latent_BLPZ.where(mask_BL[:, :, None, None], 0)

    def posterior(self, features_BTPF: Tensor, mask_BT: Tensor | None = None) -> Posterior:
        """The posterior of raw features, each person a row of it; arguments as for :meth:`encode`."""
        x_BTPF = self.normaliser.normalise(features_BTPF)
        if mask_BT is not None:
            # Padding is zero once it is normalised: raw zeros would be far outside of what the VAE knows.
            x_BTPF = x_BTPF.where(mask_BT[:, :, None, None], 0)
        return self.vae.encode(x_BTPF.transpose(1, 2).flatten(0, 1))

    def decode(self, latent_BLPZ: Tensor) -> Tensor:
        """Raw features [B, 4L, 2, F] of latents [B, L, 2, Z]; always in float32, as in bf16 joints tremble by 2 mm."""
        batch, _, persons, _ = latent_BLPZ.shape
        latent_BLNC = latent_BLPZ.transpose(1, 2).flatten(0, 1).unflatten(-1, (-1, self.config.vae.latent))
        with in_full(self.device):
            x_BTF = self.vae.decode(latent_BLNC)
        return self.normaliser.denormalise(x_BTF.unflatten(0, (batch, persons)).transpose(1, 2))

    def condition(self, text: TextStates) -> Tensor:
        """The condition [B, W] of token states."""
        text = text.to(self.device)
        return self.text_head(text.states_BKW, text.mask_BK, text.eot_B)

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: str,
        *,
        seconds: float = ...,
        seed: int = ...,
        guidance: float | None = ...,
        on_step: Callable[[int, int], None] | None = ...,
    ) -> Motion: ...

    @overload
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seconds: float = ...,
        seed: int = ...,
        guidance: float | None = ...,
        on_step: Callable[[int, int], None] | None = ...,
    ) -> list[Motion]: ...

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seconds: float = 5.0,
        seed: int = 0,
        guidance: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Motion | list[Motion]:
        """Motion of two people for each prompt.

        Args:
            prompts: one prompt or several; each gets the motion it would get alone (where sampling is in fp32, as is
                the default).
            seconds: length of the motion.
            seed: the same seed and prompt give the same motion; a prompt given twice gives two different ones.
            guidance: scale w of classifier-free guidance; the model's own if None.
            on_step: called with (steps done, steps in all); many prompts take several batches of steps.

        Returns:
            One ``Motion`` for one prompt, a list for a sequence of them.

        Raises:
            UserError: a prompt that is empty or not text, a negative seed, or a length beyond what the model learned.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        frames = frames_of(seconds, self.config.data.max_frames)
        if seed < 0:
            raise UserError(f"seed {seed}", allowed="0 or more")
        if guidance is not None and not math.isfinite(guidance):
            raise UserError(f"guidance {guidance}", allowed="a finite number")
        check_prompts(several)
        seeds, size = prompt_seeds(seed, several), max(1, _FRAMES_PER_BATCH // frames)
        starts = range(0, len(several), size)
        motions: list[Motion] = []
        for number, first in enumerate(starts):
            batch = several[first : first + size]
            motions += self.generate_batch(
                self.read_prompts(batch),
                frames_B=torch.full((len(batch),), frames),
                seeds=seeds[first : first + size],
                guidance=guidance,
                on_step=None if on_step is None else partial(_over_batches, on_step, number, len(starts)),
            ).motions(batch)
        return motions[0] if isinstance(prompts, str) else motions

    def read_prompts(self, prompts: Sequence[str]) -> Conditions:
        """The conditions of prompts; loads the frozen text encoder when first called."""
        exchanged = [self.exchanges(prompt) for prompt in prompts]
        texts = [swap_caption(prompt) if other else prompt for prompt, other in zip(prompts, exchanged, strict=True)]
        for prompt in prompts:
            if cut := self.encoder.left_out(prompt):
                warnings.warn(UserNote(f"the prompt is too long, its end is not read: {cut!r}"), stacklevel=2)
        return Conditions(self.encoder.encode(texts), torch.tensor(exchanged))

    def read_captions(
        self, folder: DatasetFolder, recordings: Sequence[RecordingHeader], captions: Sequence[int]
    ) -> Conditions:
        """The conditions of captions whose states a data set holds; needs no text encoder.

        Args:
            folder: the data set.
            recordings: the recording of each caption.
            captions: the row of each caption, one of those of its recording in any of their forms.

        Raises:
            UserError: the data set holds the states of another text encoder than the model reads.
        """
        if folder.card.encoder.name != self.config.data.encoder:
            raise UserError(
                f"holds captions as {folder.card.encoder.name!r} encodes them",
                where=folder.path,
                allowed=f"{self.config.data.encoder!r}, which the model reads",
            )
        exchanged = [self.exchanges(folder.caption(caption).text) for caption in captions]
        rows = [
            recording.exchanged(caption) if other else caption
            for recording, caption, other in zip(recordings, captions, exchanged, strict=True)
        ]
        return Conditions(stored_states(folder, rows), torch.tensor(exchanged))

    def exchanges(self, prompt: str) -> bool:
        """Whether the prompt is read with the names of the persons exchanged (see ``DataConfig.persons``)."""
        return self.config.data.persons == "named" and named_first(prompt) == 1

    @torch.no_grad()
    def generate_batch(
        self,
        conditions: Conditions,
        *,
        frames_B: Tensor,
        seeds: Sequence[int],
        guidance: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> GeneratedBatch:
        """Motions from what was read, in evaluation mode whatever mode the networks are in.

        Args:
            conditions: from ``read_prompts`` or ``read_captions``.
            frames_B: int64, frames of each motion.
            seeds: of the noise of each motion.
            guidance: scale w of classifier-free guidance; the model's own if None.
            on_step: called with (steps done, steps in all).

        Raises:
            UserError: the output is not finite.
        """
        latents_B = -(-frames_B // STRIDE)
        length = int(latents_B.max())
        mask_BL = torch.arange(length) < latents_B[:, None]
        noise_BLPZ = normal(seeds, (length, 2, self.latent), Stream.LATENT) * mask_BL[:, :, None, None]
        with eval_mode(self), products_in(self.diffusion.config.precision, self.device):
            latent_BLPZ = self.sample(
                noise_BLPZ.to(self.device),
                self.condition(conditions.text),
                mask_BL=mask_BL.to(self.device),
                guidance=guidance,
                on_step=on_step,
            )
            features_BTPF = self.decode(latent_BLPZ)[:, : int(frames_B.max())]
        features_BTPF = exchange_persons(features_BTPF, conditions.exchanged_B, self.skeleton)
        return GeneratedBatch.settled(features_BTPF, frames_B, self.skeleton)

    def sample(
        self,
        noise_BLPZ: Tensor,
        condition_BW: Tensor,
        *,
        mask_BL: Tensor | None = None,
        guidance: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Latents [B, L, 2, Z] from noise, by the sampler of the config with classifier-free guidance.

        Args:
            noise_BLPZ: where sampling starts.
            condition_BW: text condition of each sample.
            mask_BL: bool, the valid latent frames of each sample; all where none is given. Zero beyond them.
            guidance: scale w; the model's own if None.
            on_step: called with (steps done, steps in all).
        """
        if mask_BL is None:
            mask_BL = torch.ones(noise_BLPZ.shape[:2], dtype=torch.bool, device=noise_BLPZ.device)
        config = self.diffusion.config
        if guidance is not None:
            config = config.model_copy(update={"guidance": guidance})
        denoise = guided(self.denoiser.of_batch(mask_BL), condition_BW, mask_BL, config)
        with products_in(config.precision, self.device):
            return samplers.sample(self.diffusion, denoise, noise_BLPZ, on_step)

    def set_sampling(self, **changes: Any) -> None:
        """Sample motions in another way from now on; the networks and ``config`` stay as they are.

        Args:
            changes: values of the keys of :class:`DiffusionConfig` that ``SAMPLING`` names.

        Raises:
            UserError: another key, or a value that is not allowed.

        Example:
            ``model.set_sampling(sampler="dpm++", sampler_steps=10, guidance=2.0)``
        """
        self.diffusion = self.diffusion.resampled(changes)

    @property
    def encoder(self) -> TextEncoder:
        """The frozen text encoder, loaded when first needed."""
        if self._encoder is None:
            self._encoder = load_encoder(self.config.data.encoder, self._text_folder)
        return self._encoder


def _over_batches(on_step: Callable[[int, int], None], batch: int, num_batches: int, done: int, total: int) -> None:
    on_step(batch * total + done, num_batches * total)
