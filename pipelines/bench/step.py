"""A training step of the denoiser in each precision: its time, where it goes, and how near it comes to the limit.

Legend: B samples.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from intermoe.data.draws import Stream, normal, prompt_seeds, uniform
from intermoe.generation import best_device
from intermoe.layers.precision import Precision
from intermoe.model import InterMoE
from intermoe.text.encoders import encoder_width
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.objective import HOST_FRAMES
from intermoe.training.samples import Batch
from intermoe.training.step import TrainingStep
from pipelines.bench.machine import bytes_per_second, peak_flops, seconds_of, synchronise, threads_of
from pipelines.describe import TEXT_TOKENS, denoiser_step_flop
from pipelines.settings import Settings

FORMS: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The precisions that are compared."""
_REST = "backward and the rest"
PARTS = ("VAE", "text head", "denoiser forward", "optimizer", _REST)
"""What the step is broken down to."""
# The optimizer reads weight, gradient and two moments, and writes all but the gradient.
_PASSES_OF_OPTIMIZER = 7
# Where the host runs ahead of the device, a step alone says little of the time of many.
_STEPS_AT_A_TIME = {"cuda": 10, "cpu": 1}


@dataclass(frozen=True)
class StepCost:
    """The cost of a step in one precision.

    Attributes:
        seconds: of a step, the median over the repetitions.
        parts: seconds of each of ``PARTS``, measured in other steps, in which the host waits after each of them; on a
            GPU they take longer together than a step in which it does not.
        floor: seconds of the step's products at the rate of a large square one, and of the weights' and moments' way
            through memory.
        share_of_limit: the floor, as a share of the step.
    """

    seconds: float
    parts: Mapping[str, float]
    floor: float
    share_of_limit: float


@dataclass(frozen=True)
class _Endless:
    """The course of a training that does not end while it is measured."""

    seed: int
    steps_per_epoch: float = 1e6


def bench_step(
    settings: Settings, *, samples: int, repeats: int, threads: int, progress: Callable[[str, int, int], None]
) -> dict[str, StepCost]:
    """Take training steps of the denoiser on a batch of the longest motions, in each precision in turns.

    As many experts work on a token as ``moe.c_exp`` says. Motions are encoded in each step, as where they are cropped.

    Args:
        settings: of the networks and of the denoiser's training.
        samples: motions of two persons in the batch.
        repeats: timed steps in each precision; on a GPU ten steps each.
        threads: of the CPU.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        The cost of a step in each of ``FORMS``.
    """
    with threads_of(threads):
        return _measure(settings, samples, repeats, progress)


def _measure(
    settings: Settings, samples: int, repeats: int, progress: Callable[[str, int, int], None]
) -> dict[str, StepCost]:
    device = best_device()
    at_a_time = _STEPS_AT_A_TIME[device.type]
    calibrated = settings.moe.model_copy(update={"bias_init": "calibrated"})
    model = InterMoE.initial(settings.model_copy(update={"moe": calibrated}), seed=settings.seed).to(device)
    training = settings.train.denoiser.model_copy(update={"accumulate": 1})
    objective = DenoiserObjective(model, training)
    take_step = TrainingStep(objective, _Endless(settings.seed))
    batch = _batch(model, settings, samples)
    if settings.diffusion.error == "decoded":
        objective.learn_metric(batch, settings.seed)
    step = 0

    def take(steps: int) -> None:
        nonlocal step
        for _ in range(steps):
            take_step(step, batch)
            step += 1
        take_step.settle()

    seconds: dict[Precision, list[float]] = {name: [] for name in FORMS}
    parts: dict[Precision, list[Mapping[str, float]]] = {name: [] for name in FORMS}
    for number in range(-1, repeats):
        progress("bench step", max(number, 0), repeats)
        for name in FORMS:
            objective.config = training.model_copy(update={"precision": name})
            time_taken = seconds_of(partial(take, at_a_time), device) / at_a_time
            with _clocks(take_step, model, device) as taken:
                whole = seconds_of(partial(take, 1), device)
            if number >= 0:  # the first warms up
                seconds[name].append(time_taken)
                parts[name].append({**taken, _REST: whole - sum(taken.values())})
    progress("bench step", repeats, repeats)
    with torch.device("meta"):
        flop = denoiser_step_flop(InterMoE(settings), settings, samples)
    return {name: _cost(seconds[name], parts[name], _floor(model, flop, dtype)) for name, dtype in FORMS.items()}


def _cost(seconds: list[float], parts: list[Mapping[str, float]], floor: float) -> StepCost:
    median = statistics.median(seconds)
    medians = {name: statistics.median(taken[name] for taken in parts) for name in PARTS if name in parts[0]}
    return StepCost(median, medians, floor, floor / median)


def _floor(model: InterMoE, flop: int, dtype: torch.dtype) -> float:
    trained = sum(p.nbytes for part in (model.denoiser, model.text_head) for p in part.parameters())
    passes = _PASSES_OF_OPTIMIZER * trained / bytes_per_second(model.device)
    return flop / peak_flops(model.device, dtype) + passes


def _batch(model: InterMoE, settings: Settings, samples: int) -> Batch:
    """Motions, texts and draws of noise, all of the greatest length."""
    generator = torch.Generator().manual_seed(settings.seed)
    frames = model.whole_frames(settings.data.max_frames)
    seeds = prompt_seeds(settings.seed, [""] * samples)
    num_persons = model.skeleton.num_persons
    latents = model.whole_latents(frames), num_persons, model.latent
    width = encoder_width(settings.data.encoder)
    lengths_B = torch.full((samples,), frames)
    batch: Batch = {
        "features": torch.randn(samples, frames, num_persons, model.skeleton.num_features, generator=generator),
        "frames": lengths_B,
        "states": torch.randn(samples, TEXT_TOKENS, width, generator=generator),
        "mask": torch.ones(samples, TEXT_TOKENS, dtype=torch.bool),
        "eot": torch.full((samples,), TEXT_TOKENS - 1),
        "form": torch.full((samples,), -1),
        "item": torch.arange(samples),
        "latent_noise": normal(seeds, latents, Stream.LATENT),
        "diffusion_noise": normal(seeds, latents, Stream.DIFFUSION),
        "timestep": uniform(seeds, 2, Stream.TIMESTEP),
    }
    if model.device.type == "cpu":
        return batch
    return {name: tensor.to(model.device) for name, tensor in batch.items()} | {HOST_FRAMES: lengths_B}


@contextmanager
def _clocks(take_step: TrainingStep, model: InterMoE, device: torch.device) -> Iterator[Mapping[str, float]]:
    """The seconds of ``PARTS`` but the rest in the steps of the block; the host waits for the device after each."""
    calls: list[tuple[str, Any, str]] = [
        *([("VAE", model, "posterior")] if model.vae is not None else []),
        ("text head", model, "condition"),
        ("denoiser forward", model.denoiser, "predict"),
        ("optimizer", take_step.optimizer, "step"),
    ]
    taken: dict[str, float] = defaultdict(float)

    def timed(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        synchronise(device)
        began = time.perf_counter()
        result = call(*args, **kwargs)
        synchronise(device)
        taken[name] += time.perf_counter() - began
        return result

    with ExitStack() as stack:
        for name, owner, method in calls:
            setattr(owner, method, partial(timed, name, getattr(owner, method)))
            stack.callback(delattr, owner, method)
        yield taken


def as_table(costs: Mapping[str, StepCost], samples: int) -> list[list[str]]:
    """Rows of a table, the first its head."""
    first = next(iter(costs.values()))
    lines: list[tuple[str, Callable[[StepCost], str]]] = [
        ("step, ms", lambda cost: f"{1e3 * cost.seconds:.1f}"),
        *((f"- {part}", partial(_milliseconds, part)) for part in first.parts),
        ("x fp32", lambda cost: f"{cost.seconds / first.seconds:.2f}"),
        ("samples/s", lambda cost: f"{samples / cost.seconds:.3g}"),
        ("limit, ms", lambda cost: f"{1e3 * cost.floor:.1f}"),
        ("limit / step", lambda cost: f"{cost.share_of_limit:.0%}"),
    ]
    return [["", *costs], *([name, *map(shown, costs.values())] for name, shown in lines)]


def _milliseconds(part: str, cost: StepCost) -> str:
    return f"{1e3 * cost.parts[part]:.1f}"
