"""Motions that show what a network has learned, made from held-out recordings.

Legend: B batch, T frames, P = 2 persons, J joints, R = J - 1, F features of a person-frame.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from intermoe.body.conventions import FPS
from intermoe.data.batches import interactions
from intermoe.data.draws import UNDRAWN
from intermoe.data.shards import DatasetFolder
from intermoe.model import VAE_PARTS, InterMoE
from intermoe.moe.routing_map import RoutingMap, recorded_routing
from intermoe.moe.selection import selections
from intermoe.motion import Motion

_COUNT = 2


@dataclass(frozen=True)
class Sample:
    """A motion and, where experts made it, how it was routed."""

    motion: Motion
    routing: RoutingMap | None = None


def samples(target: str, model: Path, dataset: Path) -> dict[str, Sample]:
    """A few motions by name.

    For the VAE: held-out recordings and what becomes of them through encoder and decoder. For the denoiser: motions
    from held-out captions, as long as the recordings they come from. For the evaluator there are none.

    Args:
        target: "vae", "evaluator" or "denoiser".
        model: a checkpoint.
        dataset: the folder of shards; its validation split, or else its training split.
    """
    if target == "evaluator":
        return {}
    folder = DatasetFolder.open(dataset)
    split = next(name for name in ("val", "test", "train") if folder.card.recordings.get(name))
    rows = folder.index(split).frames
    chosen = [folder.recording(split, row) for row in range(0, len(rows), max(1, len(rows) // _COUNT))][:_COUNT]
    captions = [folder.caption(row.captions[0]).text for row in chosen]
    if target == "denoiser":
        generator = InterMoE.load(model)
        seconds = min(generator.config.data.max_frames, max(len(row.position_TPJ3) for row in chosen)) / FPS
        with recorded_routing(generator.denoiser) if selections(generator.denoiser) else nullcontext() as recorder:
            found = generator.generate(captions, seconds=seconds)
        maps = recorder.maps() if recorder is not None else [None] * len(found)
        return {f"sample_{n}": Sample(*pair) for n, pair in enumerate(zip(found, maps, strict=True))}
    autoencoder = InterMoE.load(model, parts=VAE_PARTS)
    motions = {}
    for n, row in enumerate(chosen[:1]):
        positions, rotations = [row.position_TPJ3], [row.rotation_TPR6]
        batch = interactions(positions, rotations, [UNDRAWN], autoencoder.skeleton, len(row.position_TPJ3))
        with torch.no_grad():
            decoded_BTPF = autoencoder.decode(autoencoder.encode(batch.features_BTPF))
        for name, features_BTPF in (("recorded", batch.features_BTPF), ("reconstructed", decoded_BTPF)):
            motions[f"{n}_{name}"] = Sample(autoencoder.motions(features_BTPF, [f"{name}: {captions[n]}"])[0])
    return motions
