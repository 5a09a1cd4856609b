"""What an evaluation does with a batch of captions, part by part: seconds, and how near each comes to the limit.

Legend: B motions, L latent frames, P persons, Z latent numbers of a person-frame, T frames, F features, J joints,
R = J - 1 joints with a local rotation, W condition width.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.features import motion_features
from intermoe.data.draws import Stream, normal, prompt_seeds
from intermoe.diffusion.schedule import Diffusion
from intermoe.evaluation import measures
from intermoe.evaluation.evaluator import Evaluator
from intermoe.generation import GeneratedBatch, best_device
from intermoe.layers.precision import dtype_of, products_in
from intermoe.model import InterMoE
from pipelines.bench.machine import peak_flops, seconds_of, threads_of
from pipelines.bench.sampling import made_up_condition, passes
from pipelines.describe import denoiser_flop
from pipelines.settings import Settings

PARTS = ("sample", "decode", "settle", "measure", "embed")
"""What is done with a batch: latents from noise, features of them, settled joints, measures of these, embeddings."""


@dataclass(frozen=True)
class PartCost:
    """The cost of one of ``PARTS``.

    Attributes:
        seconds: of a batch, the median over the repetitions.
        share_of_peak: the rate of its products, attention included, on the valid frames, as a share of that of a large
            square one; None where products are not what it does.
    """

    seconds: float
    share_of_peak: float | None


@torch.no_grad()
def bench_evaluation(
    settings: Settings, *, samples: int, repeats: int, threads: int, progress: Callable[[str, int, int], None]
) -> dict[str, PartCost]:
    """Generate and measure a batch of motions of mixed lengths with initial weights, as a job of an evaluation does.

    Args:
        settings: of the networks, the evaluator and the diffusion.
        samples: motions in the batch; the shortest has half the frames of the longest.
        repeats: timed passes of each part.
        threads: of the CPU.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        The cost of each of ``PARTS``.
    """
    with threads_of(threads):
        parts = _parts(settings, samples)
        flop = {name: _flop(settings, samples, name, run) for name, run in parts.items()}  # also warms up
        seconds: dict[str, list[float]] = {name: [] for name in PARTS}
        device = best_device()
        for number in range(repeats):
            progress("bench evaluate", number, repeats)
            for name, run in parts.items():
                seconds[name].append(seconds_of(run, device))
        progress("bench evaluate", repeats, repeats)
        sampling, embedding = (
            peak_flops(device, dtype_of(precision, device))
            for precision in (settings.diffusion.precision, settings.evaluation.precision)
        )
        full = peak_flops(device, torch.float32)
    peaks = {"sample": sampling, "decode": full, "embed": embedding}
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    shares = {name: flop[name] / medians[name] / peak for name, peak in peaks.items()}
    return {name: PartCost(median, shares.get(name)) for name, median in medians.items()}


def frames_of(settings: Settings, samples: int) -> Tensor:
    """Frames of the motions of the batch, evenly spread from half of the longest on."""
    longest = settings.longest
    shortest = max(MIN_FRAMES, longest // 2)
    return torch.linspace(longest, shortest, samples).long() if samples > 1 else torch.tensor([longest])


def _parts(settings: Settings, samples: int) -> dict[str, Callable[[], Any]]:
    """What is done with the batch; each part is given what those before it have made."""
    device = best_device()
    model = InterMoE.initial(settings, seed=settings.seed).to(device).eval()
    data = settings.data
    evaluator = Evaluator.initial(settings.evaluator, data, model.normaliser, seed=settings.seed).to(device).eval()
    for networks in (model, evaluator):
        networks.requires_grad_(requires_grad=False)
    frames_B = frames_of(settings, samples)
    latents_B = -(-frames_B // model.stride)
    mask_BL = torch.arange(int(latents_B.max())) < latents_B[:, None]
    seeds = prompt_seeds(settings.seed, [""] * samples)
    noise_BLPZ = (
        normal(seeds, (mask_BL.shape[1], model.skeleton.num_persons, model.latent), Stream.LATENT)
        * mask_BL[:, :, None, None]
    )
    condition_BW = made_up_condition(model, samples, settings.seed)
    noise_BLPZ, mask_BL = noise_BLPZ.to(device), mask_BL.to(device)
    sample = partial(model.sample, noise_BLPZ, condition_BW, mask_BL=mask_BL, seeds=seeds)
    decode = partial(model.output, sample(), condition_BW, mask_BL, noise_BLPZ, frames_B)
    settle = partial(GeneratedBatch.settled, decode().first(int(frames_B.max())), frames_B, model.skeleton)
    batch = settle()
    of_motions = motion_features(batch.joints_BTPJ3, batch.rotations_BTPR6, frames_B, model.skeleton)
    given = [tensor.to(device) for tensor in of_motions]

    def measure() -> None:
        for take in measures.of_each_motion().values():
            for row, frames in enumerate(frames_B.tolist()):
                take(batch.joints_BTPJ3[row, :frames].numpy(), model.skeleton)

    def embed() -> None:
        with products_in(settings.evaluation.precision, device):
            evaluator.embed_motion(*given)

    return {"sample": sample, "decode": decode, "settle": settle, "measure": measure, "embed": embed}


def _flop(settings: Settings, samples: int, name: str, run: Callable[[], Any]) -> float:
    """Operations of a part's products on the valid frames."""
    # Attention by plain products: the counter does not know every kernel of it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    frames_B = frames_of(settings, samples)
    valid = int(frames_B.sum()) / (samples * int(frames_B.max()))
    if name == "embed":
        return float(counter.get_total_flops())
    if name == "decode":
        return valid * counter.get_total_flops()
    with torch.device("meta"):
        model = InterMoE(settings)
    return passes(Diffusion(settings.diffusion)) * valid * denoiser_flop(model, settings, samples)


def as_table(costs: Mapping[str, PartCost]) -> list[list[str]]:
    """Rows of a table, the first its head."""
    total = sum(cost.seconds for cost in costs.values())
    rows = [["part", "ms", "share", "of peak"]]
    for name, cost in costs.items():
        of_peak = "-" if cost.share_of_peak is None else f"{cost.share_of_peak:.0%}"
        rows.append([name, f"{1e3 * cost.seconds:.1f}", f"{cost.seconds / total:.0%}", of_peak])
    return [*rows, ["all", f"{1e3 * total:.1f}", "100%", ""]]
