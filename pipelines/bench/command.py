"""`intermoe bench`: what is to be measured, and the answer as a table or JSON."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.generation import best_device
from intermoe.layers.precision import dtype_of
from intermoe.model_config import trained_folder
from pipelines import settings
from pipelines.bench import evaluation, feed, moe, sampling, step
from pipelines.bench.machine import device_name, machine_name
from pipelines.bench.sampling import TrainedModel
from pipelines.cluster.progress import Stages
from pipelines.settings import Settings
from pipelines.site import Site
from pipelines.tracking.queries import model_folder

# Of a batch: more than the memory of any device holds.
_MOST_SAMPLES = 4096


def bench(options: argparse.Namespace) -> None:
    """Measure what the options of the command line ask for, and print it.

    Raises:
        UserError: options that do not belong together, or settings that cannot be measured.
    """
    for name, most in (("threads", os.cpu_count() or 1), ("samples", _MOST_SAMPLES)):
        if (value := getattr(options, name)) is not None and value > most:
            raise UserError(f"--{name} {value}", where="intermoe bench", allowed=f"up to {most}")
    trained = _trained(options)
    values = _settings(options, trained)
    with Stages() as stages:
        answer = _PARTS[options.part](options, values, trained, stages)
    if options.json:
        print(json.dumps(answer.document, indent=2))
        return
    head, *rows = answer.table
    shown = Table(*head, title=answer.title)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


class _Answer(NamedTuple):
    """What was measured, for programs and for people."""

    document: dict[str, Any]
    table: Sequence[Sequence[str]]
    title: str


def _moe(options: argparse.Namespace, values: Settings, _trained: TrainedModel | None, progress: Stages) -> _Answer:
    samples = options.samples or 64
    costs = moe.bench_moe(
        values, samples=samples, repeats=options.repeats or 7, threads=options.threads, progress=progress
    )
    tokens = moe.token_count(values, samples)
    # As in training.
    device = device_name(options.threads, dtype_of("auto", best_device()))
    document = {"tokens": tokens, "device": device, **{name: asdict(cost) for name, cost in costs.items()}}
    return _Answer(document, moe.as_table(costs, values), f"Forward + backward of {tokens} tokens on {device}")


def _step(options: argparse.Namespace, values: Settings, _trained: TrainedModel | None, progress: Stages) -> _Answer:
    samples, device = options.samples or 8, machine_name(options.threads)
    costs = step.bench_step(
        values, samples=samples, repeats=options.repeats or 5, threads=options.threads, progress=progress
    )
    frames = values.longest
    steps = {name: asdict(cost) for name, cost in costs.items()}
    document = {"samples": samples, "frames": frames, "device": device, "steps": steps}
    title = f"Training step of {samples} samples of {frames} frames on {device}"
    return _Answer(document, step.as_table(costs, samples), title)


def _sampling(options: argparse.Namespace, values: Settings, trained: TrainedModel | None, progress: Stages) -> _Answer:
    samples, frames, guidance = options.samples or 8, values.data.max_frames, values.diffusion.guidance
    costs = sampling.bench_sampling(
        values, trained, samples=samples, repeats=options.repeats or 3, threads=options.threads, progress=progress
    )
    device = device_name(options.threads, dtype_of(values.diffusion.precision, best_device()))
    document = {"samples": samples, "frames": frames, "guidance": guidance, "device": device}
    title = f"Sampling {samples} motions of {frames} frames, guidance {guidance:g}, on {device}"
    return _Answer(document | {"samplers": sampling.as_document(costs)}, sampling.as_table(costs), title)


def _feed(options: argparse.Namespace, values: Settings, _trained: TrainedModel | None, progress: Stages) -> _Answer:
    costs = feed.bench_feed(
        values, options.data, samples=options.samples, repeats=options.repeats or 7, progress=progress
    )
    document = {"feeds": {name: asdict(cost) for name, cost in costs.items()}}
    return _Answer(document, feed.as_table(costs), f"Batches of {options.data}, prepared on one CPU thread")


def _evaluate(
    options: argparse.Namespace, values: Settings, _trained: TrainedModel | None, progress: Stages
) -> _Answer:
    samples, device = options.samples or 8, machine_name(options.threads)
    costs = evaluation.bench_evaluation(
        values, samples=samples, repeats=options.repeats or 3, threads=options.threads, progress=progress
    )
    parts = {name: asdict(cost) for name, cost in costs.items()}
    motions = "1 motion" if samples == 1 else f"{samples} motions of mixed lengths"
    title = f"Evaluation of {motions} on {device}"
    return _Answer({"samples": samples, "device": device, "parts": parts}, evaluation.as_table(costs), title)


_PARTS = {"moe": _moe, "step": _step, "sampling": _sampling, "feed": _feed, "evaluate": _evaluate}


def _trained(options: argparse.Namespace) -> TrainedModel | None:
    """The model that is asked for; none where none is."""
    where = "intermoe bench"
    if options.part == "feed" and not options.data:
        raise UserError("feed without --data", where=where, allowed="feed --data DIR")
    if options.model is None:
        if (options.data and options.part != "feed") or options.evaluator:
            raise UserError("--data and --evaluator without --model", where=where, allowed="all of them for sampling")
        return None
    if options.part != "sampling":
        raise UserError(f"{options.part} takes no --model", where=where, allowed="sampling --model RUN --data DIR")
    if options.data is None:
        raise UserError("--model without --data", where=where, allowed="--model RUN --data DIR")
    uri = Site.here().tracking_uri
    model, evaluator = (
        trained_folder(model_folder(name, uri)) if name else None for name in (options.model, options.evaluator)
    )
    assert model is not None
    return TrainedModel(model, options.data, evaluator)


def _settings(options: argparse.Namespace, trained: TrainedModel | None) -> Settings:
    overrides = settings.parse_overrides(options.overrides)
    if trained is None:
        return settings.load(options.config, overrides)
    settings.check_of_trained(overrides)
    return settings.overridden(checkpoint.documents(trained.model)["config"], overrides, where=trained.model)
