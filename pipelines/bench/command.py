"""`intermoe bench`: what is to be measured, and the answer as a table or JSON."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.model import trained_folder
from pipelines import settings
from pipelines.bench import feed, moe, sampling
from pipelines.bench.machine import device_name
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
    # The block as in training, the samplers as in generation.
    is_half = options.part == "moe" and torch.cuda.is_available()
    device = device_name(options.threads, torch.bfloat16 if is_half else torch.float32)
    if options.part == "moe":
        samples = options.samples or 64
        with Stages() as stages:
            costs = moe.bench_moe(
                values, samples=samples, repeats=options.repeats or 7, threads=options.threads, progress=stages
            )
        tokens = moe.token_count(values, samples)
        document = {"tokens": tokens, "device": device, **{name: asdict(cost) for name, cost in costs.items()}}
        _print(options, document, moe.as_table(costs, values), f"Forward + backward of {tokens} tokens on {device}")
        return
    if options.part == "feed":
        with Stages() as stages:
            of_feeds = feed.bench_feed(
                values, options.data, samples=options.samples, repeats=options.repeats or 7, progress=stages
            )
        document = {"feeds": {name: asdict(cost) for name, cost in of_feeds.items()}}
        _print(options, document, feed.as_table(of_feeds), f"Batches of {options.data}, prepared on one CPU thread")
        return
    samples = options.samples or 8
    with Stages() as stages:
        of_samplers = sampling.bench_sampling(
            values, trained, samples=samples, repeats=options.repeats or 3, threads=options.threads, progress=stages
        )
    what = {"samples": samples, "frames": values.data.max_frames, "guidance": values.diffusion.guidance}
    title = f"Sampling {samples} motions of {values.data.max_frames} frames, guidance {what['guidance']:g}, on {device}"
    document = {**what, "device": device, "samplers": sampling.as_document(of_samplers)}
    _print(options, document, sampling.as_table(of_samplers), title)


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


def _print(options: argparse.Namespace, document: dict[str, Any], table: Sequence[Sequence[str]], title: str) -> None:
    if options.json:
        print(json.dumps(document, indent=2))
        return
    head, *rows = table
    shown = Table(*head, title=title)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
