"""What a training of the denoiser wants to know of each motion, computed once where it comes again and again.

Posteriors of the frozen VAE and, of two people, how near their hands come.

Legend: B batch, L latent frames, P persons, Z = NC latent numbers of a person-frame, N latent joints, C numbers of
a latent joint, T frames, F features, J joints, H hands of a person.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from intermoe.body.features import joints_from_features
from intermoe.body.hands import hand_gaps
from intermoe.layers.precision import in_full
from intermoe.model import InterMoE
from intermoe.networks.vae import Posterior
from intermoe.training.samples import Batch

_BYTES = 2**30


class PosteriorMemory:
    """The latents of batches; what the VAE made of a recording that is not cropped is kept.

    A motion is encoded alone and at its own length: its numbers do not hang on which others are in the batch, so
    neither on what is kept already, such as nothing after an interruption, nor on the number of workers.
    """

    def __init__(
        self, model: InterMoE, form_features: Callable[[int], Tensor] | None = None, num_bytes: int = _BYTES
    ) -> None:
        """Keep nothing yet.

        Args:
            model: whose VAE does not change any more.
            form_features: gives the features [1, T, P, F] of a form, for batches without features.
            num_bytes: of posteriors to keep at most; what comes later is computed every time.
        """
        self._model, self._form_features, self._room = model, form_features, num_bytes
        self._kept: dict[int, Posterior] = {}
        self._gaps: dict[int, Tensor] = {}

    @torch.no_grad()
    def latents(self, batch: Batch, mask_BL: Tensor, noise_BLPZ: Tensor | None) -> Tensor:
        """Latents [B, L, P, Z] of a batch of motions; zero beyond the valid frames.

        Args:
            batch: its ``frames`` and ``form`` are used, and its ``features``, if it has them.
            mask_BL: bool, the valid latent frames.
            noise_BLPZ: what they are drawn with from the posteriors; without it, they are the means.
        """
        device = mask_BL.device
        latent_BLPZ = torch.zeros(*mask_BL.shape, self._model.skeleton.num_persons, self._model.latent, device=device)
        for row, (frames, form) in enumerate(zip(batch["frames"].tolist(), batch["form"].tolist(), strict=True)):
            num_latents = self._model.whole_latents(frames)
            posterior = self._kept.get(form)
            if posterior is None:
                features_BTPF = self._features(batch, row, form)[:, : self._model.whole_frames(frames)]
                # What is kept is used in every epoch: an error of bf16 would be the same in each.
                with in_full(device):
                    posterior = self._model.posterior(features_BTPF.to(device))
                self._keep(form, posterior)
            noise_1LPZ = None if noise_BLPZ is None else noise_BLPZ[row : row + 1, :num_latents]
            latent_BLPZ[row, :num_latents] = posterior.of_persons(self._model.skeleton.num_persons, noise_1LPZ)[0]
        return latent_BLPZ

    @torch.no_grad()
    def hand_gaps(self, batch: Batch, length: int) -> Tensor:
        """How near wrists of the two persons come in each latent frame [B, L, H, H], metres.

        Args:
            batch: of interactions.
            length: L; behind the valid latent frames the numbers mean nothing.
        """
        if "features" in batch:
            return _least_gaps(batch["features"], self._model)[:, :length]
        rows = []
        for row, form in enumerate(batch["form"].tolist()):
            if form not in self._gaps:
                self._features(batch, row, form)
            gap_LHH = self._gaps[form][:length]
            rows.append(nn.functional.pad(gap_LHH, (0, 0, 0, 0, 0, length - len(gap_LHH))))
        return torch.stack(rows).to(batch["frames"].device)

    def _features(self, batch: Batch, row: int, form: int) -> Tensor:
        if "features" in batch:
            return batch["features"][row : row + 1]
        assert self._form_features is not None
        features_BTPF = self._form_features(form)
        if self._model.denoiser.contact_head is not None:
            self._gaps[form] = _least_gaps(features_BTPF, self._model)[0]
        return features_BTPF

    def _keep(self, form: int, posterior: Posterior) -> None:
        size = sum(x_BLNC.untyped_storage().nbytes() for x_BLNC in (posterior.mean_BLNC, posterior.logvar_BLNC))
        if form >= 0 and size <= self._room:
            self._kept[form] = posterior
            self._room -= size


def _least_gaps(features_BTPF: Tensor, model: InterMoE) -> Tensor:
    """The least gaps between wrists in each whole latent frame [B, L, H, H], metres."""
    whole = features_BTPF.shape[1] // model.stride * model.stride
    joints_BPTJ3 = joints_from_features(features_BTPF[:, :whole].transpose(1, 2), model.skeleton)
    return hand_gaps(joints_BPTJ3, model.skeleton).unflatten(1, (-1, model.stride)).amin(dim=2)
