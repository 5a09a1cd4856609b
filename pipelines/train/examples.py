"""Motions that show what a network has learned, made from held-out recordings.

Legend: B motions, T frames, P persons, J joints, R = J - 1, F features of a person-frame.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from intermoe.body.skeletons import Skeleton
from intermoe.data.batches import interactions
from intermoe.data.draws import UNDRAWN, prompt_seeds
from intermoe.data.rows import MotionRow
from intermoe.data.shards import DatasetFolder
from intermoe.generation import unsettled_motion
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS
from intermoe.moe.routing_map import RoutingMap, recorded_routing
from intermoe.moe.selection import selections
from intermoe.motion import Motion
from intermoe.places import Place
from intermoe.render.page import Panel, Scene

_COUNT = 2


@dataclass(frozen=True)
class ExampleMotion:
    """A motion that a network has made, or a recording.

    Attributes:
        motion: see there.
        routing: the experts that made it, where experts did.
        recorded: the recording it was made from, or whose caption it was made from; None for a recording itself.
    """

    motion: Motion
    routing: RoutingMap | None = None
    recorded: Motion | None = None


def example_scenes(examples: Iterable[ExampleMotion], label: str) -> list[Scene]:
    """What a page shows of examples: each motion that was made, under that label, beside its recording."""
    return [
        Scene(
            example.recorded.caption,
            (Panel(example.recorded, "recorded"), Panel(example.motion, label, example.routing)),
        )
        for example in examples
        if example.recorded is not None
    ]


def example_motions(
    target: str, model: Place, dataset: Place, device: str | torch.device = "cpu"
) -> dict[str, ExampleMotion]:
    """A few motions by name; no text encoder is needed, since the data set holds the states of its captions.

    For the VAE: a held-out recording and what becomes of it through encoder and decoder. For the denoiser: motions
    from held-out captions, as long as the recordings they come from. For the evaluator there are none.

    Args:
        target: "vae", "evaluator" or "denoiser".
        model: a checkpoint.
        dataset: the folder of shards; its validation split, or else its test or training split.
        device: of the networks.
    """
    if target == "evaluator":
        return {}
    folder = DatasetFolder.open(dataset)
    split = next(name for name in ("val", "test", "train") if folder.card.recordings.get(name))
    rows = len(folder.index(split).ids)
    chosen = [folder.recording(split, row) for row in range(0, rows, max(1, rows // _COUNT))][:_COUNT]
    if target == "denoiser":
        return _generated(InterMoE.load(model, device=device), folder, chosen)
    return _reconstructed(InterMoE.load(model, device=device, parts=VAE_PARTS), folder, chosen[0])


def _generated(model: InterMoE, folder: DatasetFolder, recordings: Sequence[MotionRow]) -> dict[str, ExampleMotion]:
    captions = [recording.captions[0] for recording in recordings]
    texts = [folder.caption(caption).text for caption in captions]
    longest = model.config.data.max_frames
    with recorded_routing(model.denoiser, model.stride) if selections(model.denoiser) else nullcontext() as recorder:
        batch = model.generate_batch(
            model.read_captions(folder, recordings, captions),
            frames_B=torch.tensor([min(longest, recording.frames) for recording in recordings]),
            seeds=prompt_seeds(0, texts),
        )
    motions = batch.motions(texts)
    maps = recorder.maps() if recorder is not None else [None] * len(motions)
    recorded = [
        unsettled_motion(_recorded(recording, model.skeleton, longest)[0], text, model.skeleton)
        for recording, text in zip(recordings, texts, strict=True)
    ]
    return {f"sample_{n}": ExampleMotion(*parts) for n, parts in enumerate(zip(motions, maps, recorded, strict=True))}


def _reconstructed(model: InterMoE, folder: DatasetFolder, recording: MotionRow) -> dict[str, ExampleMotion]:
    recorded_BTPF = _recorded(recording, model.skeleton, recording.frames)
    with torch.no_grad():
        frames_B = torch.tensor([model.whole_frames(recorded_BTPF.shape[1])])
        decoded_BTPF = model.decode(model.encode(recorded_BTPF.to(model.device)), frames_B).cpu()[:, : int(frames_B)]
    text = folder.caption(recording.captions[0]).text
    beside = unsettled_motion(recorded_BTPF[0], text, model.skeleton)
    return {
        f"0_{name}": ExampleMotion(unsettled_motion(features_TPF, f"{name}: {text}", model.skeleton), recorded=recorded)
        for name, features_TPF, recorded in (
            ("recorded", recorded_BTPF[0], None),
            ("reconstructed", decoded_BTPF[0], beside),
        )
    }


def _recorded(recording: MotionRow, skeleton: Skeleton, longest: int) -> Tensor:
    """Features of a recording alone in a batch, as it is: not swapped, not mirrored, from its first frame on."""
    return interactions([recording], [UNDRAWN], skeleton, longest).features_BTPF
