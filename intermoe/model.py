"""InterMoE whole: the VAE, the text head and the denoiser as one thing that turns prompts into motion.

Legend: B batch, T frames, L latent frames (T / 4; T without a VAE), P persons, F features, N latent joints,
C channels of one, Z = N * C, J joints, R = J - 1, K text tokens, W text width.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack, overload

import torch
from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.body.features import Normaliser
from intermoe.body.skeletons import skeleton_named
from intermoe.context.context import Context, GenerateOptions, check_in_a_row, context_of
from intermoe.context.continuation import lengths_in_a_row
from intermoe.context.networks import Networks
from intermoe.data.batches import stored_states
from intermoe.data.draws import Stream, normal, prompt_seeds, step_noise
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import DatasetFolder
from intermoe.diffusion import samplers
from intermoe.diffusion.guidance import guided, predicting_clean
from intermoe.diffusion.known import Known, keeping
from intermoe.diffusion.schedule import Diffusion
from intermoe.errors import UserError, UserNote, shortened
from intermoe.generation import Conditions, GeneratedBatch, OnStep, Sampled, batches, check_request, eval_mode, nth_of
from intermoe.given_person import GivenPerson
from intermoe.layers.precision import products_in
from intermoe.layers.stored_weights import check_fit
from intermoe.model_config import ModelConfig, trained_folder
from intermoe.motion import Motion
from intermoe.networks.by_name import DenoisedData, denoiser_of, text_reader, vae_for
from intermoe.networks.codec import LatentCodec
from intermoe.places import Place
from intermoe.text.captions import named_first, swap_caption
from intermoe.text.encoders import TextEncoder, TextStates, encoder_width, load_encoder


class InterMoE(LatentCodec):
    """The generator of motion of two persons from text, or a rival of it, of two or one (see ``ModelConfig.network``).

    Example:
        ``InterMoE.load("runs/duet/denoiser").generate("Two people bow.", seconds=4, seed=0).save("bow.mp4")``
    """

    def __init__(self, config: ModelConfig) -> None:
        skeleton = skeleton_named(config.data.skeleton)
        super().__init__(
            vae_for(config.network, config.vae, config.mld_vae, skeleton), skeleton, config.frames_per_latent
        )
        self.config = config
        width = encoder_width(config.data.encoder)
        self.text_head = text_reader(config.network, config.denoiser, width)
        self.denoiser = denoiser_of(
            config.network,
            config.denoiser,
            config.moe,
            config.timotion,
            DenoisedData(self.skeleton, self.latent, width),
            weighs_errors=config.diffusion.error == "decoded",
            predicts_contacts=bool(config.diffusion.hand_contact_loss),
        )
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
        parts: Sequence[str] | None = None,
    ) -> Self:
        """A trained model.

        Args:
            path: a checkpoint, or the folder of a training run (then its best checkpoint).
            device: of the networks; ``best_device()`` is the fastest of this machine.
            text_folder: where CLIP's weights lie, if not in the user's hub cache.
            parts: what the checkpoint must hold, by default all; with ``VAE_PARTS`` it can encode and decode.

        Raises:
            UserError: no checkpoint there, a damaged one, or one without these parts.
        """
        folder = trained_folder(path)
        saved = checkpoint.load(folder, device=str(device))
        config = ModelConfig.load(folder)
        parts = config.parts if parts is None else parts
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
        return {name: self.get_submodule(name) for name in self.config.parts}

    def condition(self, text: TextStates) -> Tensor:
        """What the network reads of token states: [B, W], or [B, K, W] where it reads ``words``."""
        text = text.to(self.device)
        condition: Tensor = self.text_head(text.states_BKW, text.mask_BK, text.eot_B)
        return condition

    @overload
    def generate(self, prompts: str, **options: Unpack[GenerateOptions]) -> Motion: ...  # type: ignore[overload-overlap]

    @overload
    def generate(self, prompts: Sequence[str], **options: Unpack[GenerateOptions]) -> list[Motion]: ...

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seconds: float | None = None,
        seed: int = 0,
        guidance: float | None = None,
        on_step: OnStep | None = None,
        given: GivenPerson | None = None,
        after: Motion | None = None,
    ) -> Motion | list[Motion]:
        """Motion of all persons that the model is of, for each prompt.

        Args:
            prompts: one prompt or several; each gets the motion it would get alone (where sampling is in fp32, as is
                the default).
            seconds: length of the motion; if None 5, that of the given person, or 4 after another motion.
            seed: the same seed and prompt give the same motion; a prompt given twice gives two different ones.
            guidance: scale w of classifier-free guidance; the model's own if None.
            on_step: called with (steps done, steps in all); many prompts take several batches of steps.
            given: one of the persons, who stays as they are; the other is generated to them.
            after: a motion to go on from; each result is that motion, unchanged, and ``seconds`` more.

        Returns:
            One ``Motion`` for one prompt, a list for a sequence of them.

        Raises:
            UserError: a prompt that is empty or not text, a negative seed, a length beyond what the model learned, or
                a given motion that it cannot go on from.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        check_request(several, seed, guidance)
        context = context_of(given, after, self.skeleton)
        frames = context.frames(seconds, self.config.data.max_frames, self.skeleton.fps)
        motions: list[Motion] = []
        seeds = prompt_seeds(seed, several)
        for part, told in batches(len(several), frames, on_step):
            motions += self._generate(several[part], seeds[part], context, frames, guidance, on_step=told)
        return motions[0] if isinstance(prompts, str) else motions

    def generate_sequence(
        self,
        prompts: Sequence[str],
        *,
        seconds: float | None = None,
        seed: int = 0,
        guidance: float | None = None,
        on_step: OnStep | None = None,
        after: Motion | None = None,
    ) -> Motion:
        """One motion in which the prompts happen one after the other, without a jump between them.

        Args:
            prompts: what happens, in order; each goes on from the last frames of the one before.
            seconds: length of what each prompt adds; 4 if None.
            seed: as for ``generate``.
            guidance: as for ``generate``.
            on_step: called with (steps done, steps in all).
            after: a motion that goes before.

        Raises:
            UserError: as for ``generate``.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        check_request(prompts, seed, guidance)
        check_in_a_row(prompts, after, self.skeleton)
        motion, seeds = after, prompt_seeds(seed, prompts)
        longest, seconds = self.config.data.max_frames, 4.0 if seconds is None else seconds
        lengths = lengths_in_a_row(len(prompts), seconds, longest, after, self.skeleton.fps)
        for number, (prompt, frames) in enumerate(zip(prompts, lengths, strict=True)):
            context = context_of(None, motion, self.skeleton)
            told = nth_of(on_step, number, len(prompts))
            motion = self._generate([prompt], seeds[number : number + 1], context, frames, guidance, on_step=told)[0]
        assert motion is not None  # there is a prompt
        return motion

    @torch.no_grad()
    def _generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        context: Context,
        frames: int,
        guidance: float | None,
        *,
        on_step: OnStep | None,
    ) -> list[Motion]:
        """The motions of a batch of prompts in their context, of so many frames with what is known of them."""
        exchanged_B = torch.tensor([context.exchanges(self.first_person(prompt)) for prompt in prompts])
        conditions, frames_B = self.read_prompts(prompts, exchanged_B), torch.full((len(prompts),), frames)

        def generate(known: Known | None, on_step: OnStep | None) -> Sampled:
            return self._sampled(conditions, frames_B, seeds, guidance, known=known, on_step=on_step)

        def encode(features_BTPF: Tensor) -> Tensor:
            return self.encode(features_BTPF.to(self.device))

        with eval_mode(self):
            return context.motions(prompts, exchanged_B, Networks(self.skeleton, frames, encode, generate), on_step)

    def read_prompts(self, prompts: Sequence[str], exchanged_B: Tensor | None = None) -> Conditions:
        """The conditions of prompts; loads the frozen text encoder when first called.

        Args:
            prompts: a sentence each.
            exchanged_B: bool, the prompts that are read with the names of the persons exchanged; those that
                ``exchanges`` names if None.
        """
        if exchanged_B is None:
            exchanged_B = torch.tensor([self.exchanges(prompt) for prompt in prompts])
        exchanged = exchanged_B.tolist()
        texts = [swap_caption(prompt) if other else prompt for prompt, other in zip(prompts, exchanged, strict=True)]
        for prompt in prompts:
            if cut := self.encoder.left_out(prompt):
                note = UserNote(f"the prompt is too long, its end is not read: {shortened(cut)!r}")
                warnings.warn(note, stacklevel=2)
        return Conditions(self.encoder.encode(texts), exchanged_B)

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
        return self.first_person(prompt) == 1

    def first_person(self, prompt: str) -> int | None:
        """The person of a prompt, 0 or 1, who has to be the networks' first; None where either may be."""
        return named_first(prompt) if self.config.data.persons == "named" else None

    @torch.no_grad()
    def generate_batch(
        self,
        conditions: Conditions,
        *,
        frames_B: Tensor,
        seeds: Sequence[int],
        guidance: float | None = None,
        on_step: OnStep | None = None,
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
        output = self._sampled(conditions, frames_B, seeds, guidance, on_step=on_step)
        return GeneratedBatch.settled(output.exchanged(conditions.exchanged_B, self.skeleton), frames_B, self.skeleton)

    def _sampled(
        self,
        conditions: Conditions,
        frames_B: Tensor,
        seeds: Sequence[int],
        guidance: float | None,
        *,
        known: Known | None = None,
        on_step: OnStep | None,
    ) -> Sampled:
        """What the networks make of conditions, in their own order of the persons."""
        latents_B = -(-frames_B // self.stride)
        length = int(latents_B.max())
        mask_BL = (torch.arange(length) < latents_B[:, None]).to(self.device)
        noise_BLPZ = normal(seeds, (length, self.skeleton.num_persons, self.latent), Stream.LATENT).to(self.device)
        noise_BLPZ = noise_BLPZ * mask_BL[:, :, None, None]
        with eval_mode(self), products_in(self.diffusion.config.precision, self.device):
            condition_BW = self.condition(conditions.text)
            latent_BLPZ = self.sample(
                noise_BLPZ, condition_BW, mask_BL=mask_BL, guidance=guidance, on_step=on_step, known=known, seeds=seeds
            )
            output = self.output(latent_BLPZ, condition_BW, mask_BL, noise_BLPZ, frames_B)
            return output.first(int(frames_B.max()))

    def output(
        self, latent_BLPZ: Tensor, condition_BW: Tensor, mask_BL: Tensor, noise_BLPZ: Tensor, frames_B: Tensor
    ) -> Sampled:
        """What sampled latents of so many frames decode to, and which hands touch; the rest as for ``sample``."""
        contacts = self.denoiser.hand_contacts(latent_BLPZ, condition_BW, mask_BL, noise_BLPZ, self.diffusion)
        return Sampled(self.decode(latent_BLPZ, frames_B), contacts and contacts.repeated(self.stride))

    def sample(
        self,
        noise_BLPZ: Tensor,
        condition_BW: Tensor,
        *,
        mask_BL: Tensor | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
        known: Known | None = None,
        seeds: Sequence[int] = (),
    ) -> Tensor:
        """Latents [B, L, P, Z] from noise, by the sampler of the config with classifier-free guidance.

        Args:
            noise_BLPZ: where sampling starts.
            condition_BW: text condition of each sample.
            mask_BL: bool, the valid latent frames of each sample; all where none is given. Zero beyond them.
            guidance: scale w; the model's own if None.
            on_step: called with (steps done, steps in all).
            known: latents that are known, and come out as they are.
            seeds: of each sample, for a sampler that draws noise in each step.
        """
        if mask_BL is None:
            mask_BL = torch.ones(noise_BLPZ.shape[:2], dtype=torch.bool, device=noise_BLPZ.device)
        config = self.diffusion.config
        if guidance is not None:
            config = config.model_copy(update={"guidance": guidance})
        denoiser = predicting_clean(self.denoiser.of_batch(mask_BL), self.diffusion)
        denoise = guided(denoiser, condition_BW, mask_BL, config)
        if known is not None:
            denoise = keeping(denoise, known, self.diffusion, noise_BLPZ, self.stride)
        with products_in(config.precision, self.device):
            return samplers.sample(self.diffusion, denoise, noise_BLPZ, on_step, partial(step_noise, seeds, noise_BLPZ))

    def set_sampling(self, **changes: Any) -> None:
        """Sample in another way from now on, as in ``model.set_sampling(sampler_steps=10, guidance=2.0)``.

        Args:
            changes: values of the keys of :class:`DiffusionConfig` that ``SAMPLING`` names.

        Raises:
            UserError: another key, or a value that is not allowed.
        """
        self.diffusion = self.diffusion.resampled(changes)

    @property
    def encoder(self) -> TextEncoder:
        """The frozen text encoder, loaded when first needed."""
        if self._encoder is None:
            self._encoder = load_encoder(self.config.data.encoder, self._text_folder)
        return self._encoder
