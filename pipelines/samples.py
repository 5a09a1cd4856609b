"""Motions that show what a network has learned, made from held-out recordings."""

from pathlib import Path

import torch

from intermoe.batches import interactions
from intermoe.datasets.recordings import FPS
from intermoe.model import VAE_PARTS, InterMoE
from intermoe.motion import Motion
from intermoe.sampling import UNDRAWN
from intermoe.shards import DatasetFolder

_COUNT = 2


def samples(target: str, model: Path, dataset: Path) -> dict[str, Motion]:
    """A few motions by name.

    For the VAE: held-out recordings and what becomes of them through encoder and decoder. For the denoiser: motions
    from held-out captions, as long as the recordings they come from.

    Args:
        target: "vae" or "denoiser".
        model: a checkpoint.
        dataset: the folder of shards; its validation split, or else its training split.
    """
    folder = DatasetFolder.open(dataset)
    split = next(name for name in ("val", "test", "train") if folder.card.recordings.get(name))
    rows = folder.index(split).frames
    chosen = [folder.recording(split, row) for row in range(0, len(rows), max(1, len(rows) // _COUNT))][:_COUNT]
    captions = [folder.caption(row.captions[0]).text for row in chosen]
    if target == "denoiser":
        generator = InterMoE.load(model)
        seconds = min(generator.config.data.max_frames, max(len(row.position_TPJ3) for row in chosen)) / FPS
        return {f"sample_{n}": motion for n, motion in enumerate(generator.generate(captions, seconds=seconds))}
    autoencoder = InterMoE.load(model, parts=VAE_PARTS)
    motions = {}
    for n, row in enumerate(chosen[:1]):
        positions, rotations = [row.position_TPJ3], [row.rotation_TPR6]
        batch = interactions(positions, rotations, [UNDRAWN], autoencoder.skeleton, len(row.position_TPJ3))
        with torch.no_grad():
            decoded_BTPF = autoencoder.decode(autoencoder.encode(batch.features_BTPF))
        for name, features_BTPF in (("recorded", batch.features_BTPF), ("reconstructed", decoded_BTPF)):
            motions[f"{n}_{name}"] = autoencoder.motions(features_BTPF, [f"{name}: {captions[n]}"])[0]
    return motions
