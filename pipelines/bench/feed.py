"""The feed of a training: how many samples a second one core prepares, without Ray, and what they cost.

What a part costs is the difference to a feed without it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from intermoe.data.draws import Stream
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.model import InterMoE
from intermoe.places import Place
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.samples import SampleStream
from intermoe.training.vae import VaeObjective
from pipelines.bench.machine import bytes_per_second, threads_of
from pipelines.settings import Settings


@dataclass(frozen=True)
class FeedCost:
    """The cost of the batches of one feed.

    Attributes:
        cpu_seconds: of one batch, the median over the repetitions.
        samples_per_second: that one core prepares.
        megabytes: of a batch.
        share_of_copying: the time in which the memory copies as many bytes, as a share of what they take.
    """

    cpu_seconds: float
    samples_per_second: float
    megabytes: float
    share_of_copying: float


def bench_feed(
    settings: Settings,
    data: Place,
    *,
    samples: int | None,
    repeats: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, FeedCost]:
    """Prepare batches of each training in turns, on one thread.

    Args:
        settings: of the networks and their trainings.
        data: folder of shards.
        samples: in a batch; those of the settings if None.
        repeats: timed batches of each feed; each is of another step.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        For ``vae``, ``denoiser`` and this without noise; where nothing is cropped also without features, as a denoiser
        on a CPU is fed, which keeps the latents, and without both.

    Raises:
        UserError: the training split is empty.
    """
    dataset = DatasetFolder.open(data)
    if not len(dataset.index("train").ids):
        raise UserError("the train split is empty", where=data)
    streams = _streams(settings, dataset, samples)
    with threads_of(1):
        for stream in streams.values():
            stream.batch(0)  # opens the shards
        seconds: dict[str, list[float]] = {name: [] for name in streams}
        sizes: dict[str, list[int]] = {name: [] for name in streams}
        for number in range(repeats):
            progress("bench feed", number, repeats)
            for name, stream in streams.items():
                began = time.process_time()
                batch = stream.batch(number + 1)
                seconds[name].append(time.process_time() - began)
                sizes[name].append(sum(tensor.nbytes for tensor in batch.values()))
        progress("bench feed", repeats, repeats)
        rate = bytes_per_second(torch.device("cpu"), time.process_time) / 2
    costs = {}
    for name, stream in streams.items():
        median, size = statistics.median(seconds[name]), statistics.median(sizes[name])
        costs[name] = FeedCost(median, stream.batch_size / median, size / 1e6, size / rate / median)
    return costs


def _streams(settings: Settings, dataset: DatasetFolder, samples: int | None) -> dict[str, SampleStream]:
    # How errors are measured is no matter of the feed.
    diffusion = settings.diffusion.model_copy(update={"error": "latent"})
    model = InterMoE.initial(settings.model_copy(update={"diffusion": diffusion}), dataset.normaliser())
    denoiser = replace(DenoiserObjective(model, settings.train.denoiser).stream(dataset, settings.seed), features=True)
    without_noise = (Stream.TIMESTEP,)
    streams = {"denoiser": denoiser, "denoiser without noise": replace(denoiser, drawn=without_noise)}
    if settings.has_vae:
        streams = {"vae": VaeObjective(model, settings.train.vae).stream(dataset, settings.seed), **streams}
    if denoiser.is_whole:
        streams["denoiser without features"] = replace(denoiser, features=False)
        streams["denoiser without both"] = replace(denoiser, features=False, drawn=without_noise)
    return {name: replace(stream, batch_size=samples or stream.batch_size) for name, stream in streams.items()}


def as_table(costs: Mapping[str, FeedCost]) -> list[list[str]]:
    """Rows of a table, the first its head."""
    rows = [["feed", "CPU ms per batch", "samples/s per core", "MB per batch", "of copying"]]
    for name, cost in costs.items():
        row = [name, f"{1e3 * cost.cpu_seconds:.1f}", f"{cost.samples_per_second:,.0f}", f"{cost.megabytes:.1f}"]
        rows.append([*row, f"{cost.share_of_copying:.0%}"])
    return rows
