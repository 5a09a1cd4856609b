"""The MoE block against its equals: a dense network of the same active width, and experts that fill a dense buffer.

All three take the same tokens forward and backward, in turns, so that whatever else the machine does meets them alike.

Legend: E experts, S tokens.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from intermoe.errors import UserError
from intermoe.generation import best_device
from intermoe.layers.precision import dtype_of, products_in
from intermoe.moe.block import DenseBlock, MoeBlock
from intermoe.moe.experts import DenseFeedForward, ScatteringExperts
from intermoe.moe.pool import TokenPool
from pipelines.bench.machine import Pass, peak_flops, seconds_of, threads_of
from pipelines.settings import Settings

FORMS = ("block", "dense", "scatter")


@dataclass(frozen=True)
class Cost:
    """The cost of one form, forward and backward.

    Attributes:
        seconds: median over the repetitions.
        peak_mb: most memory held at once beyond what was there before, in 1e6 bytes; the gradients of the weights
            count, the weights do not.
        tflops: products of the experts in 1e12 FLOP per second, over the time of the whole block.
        share_of_peak: that, as a share of what the device reaches on a large square product; None on a CPU.
    """

    seconds: float
    peak_mb: float
    tflops: float
    share_of_peak: float | None


def bench_moe(
    settings: Settings, *, samples: int, repeats: int, threads: int, progress: Callable[[str, int, int], None]
) -> dict[str, Cost]:
    """Measure the block of the settings on a batch of the longest motions, on the GPU where there is one.

    The products run in the precision of a training on that device. The biases are set so that ``moe.c_exp`` is met.

    Args:
        settings: whose ``denoiser.width``, ``moe`` and ``data.max_frames`` count.
        samples: motions of two persons in the batch.
        repeats: timed passes of each form.
        threads: of the CPU.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        For each of ``FORMS``: ``block``, the project's; ``dense``, one SwiGLU network of an expert's width for every
        token, of equal active width where ``c_exp`` is 1; ``scatter``, the block with ``ScatteringExperts``.

    Raises:
        UserError: the settings have no experts whose number of tokens follows their scores.
    """
    if settings.network != "intermoe":
        raise UserError(f"network = {settings.network!r}", where="bench moe", allowed="'intermoe'")
    if settings.moe.selection != "dynamic":
        raise UserError(f"moe.selection = {settings.moe.selection!r}", allowed="'dynamic'")
    with threads_of(threads):
        return _measure(settings, samples, repeats, progress)


def _measure(
    settings: Settings, samples: int, repeats: int, progress: Callable[[str, int, int], None]
) -> dict[str, Cost]:
    device = best_device()
    torch.manual_seed(settings.seed)
    width, frames = settings.denoiser.width, settings.data.max_frames // settings.frames_per_latent
    moe = settings.moe.model_copy(update={"bias_init": "calibrated"})
    block = MoeBlock(moe, width).to(device)
    dense = DenseBlock(DenseFeedForward(width, moe.hidden), width).to(device)
    scatter = MoeBlock(moe, width).to(device)
    x = torch.randn(2, samples, frames, width, device=device, requires_grad=True)
    emb, text = (torch.randn(samples, width, device=device, requires_grad=True) for _ in range(2))
    pool = TokenPool.of(torch.ones(samples, frames, dtype=torch.bool, device=device), num_persons=2)
    with torch.no_grad():
        block(x, emb, text, pool)
    scatter.load_state_dict(block.state_dict())
    scatter.experts = ScatteringExperts(scatter.experts)  # type: ignore[assignment]
    assignments = int(block.selection.selected_E.sum())
    passes = {
        name: _pass(module, x, emb, text, pool) for name, module in zip(FORMS, (block, dense, scatter), strict=True)
    }
    peaks = {name: _peak_bytes(run, device) for name, run in passes.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(repeats):
        progress("bench moe", number, repeats)
        for name, run in passes.items():
            seconds[name].append(seconds_of(run, device))
    progress("bench moe", repeats, repeats)
    peak = peak_flops(device, dtype_of("auto", device)) if device.type == "cuda" else None
    tokens = {"block": assignments, "dense": len(pool.position_S), "scatter": assignments}
    costs = {}
    for name in FORMS:
        median = statistics.median(seconds[name])
        # Three products of width x hidden per token, forward and twice backward.
        flops = 3 * 2 * 3 * tokens[name] * width * moe.hidden / median
        share = flops / peak if peak else None
        costs[name] = Cost(median, peaks[name] / 1e6, flops / 1e12, share)
    return costs


def _pass(module: nn.Module, x: Tensor, emb: Tensor, text: Tensor, pool: TokenPool) -> Pass:
    """Forward and backward of one form, with all gradients made anew."""

    def run() -> None:
        with products_in("auto", x.device):
            y = module(x, emb, text, pool)
        y.float().square().sum().backward()
        for leaf in (x, emb, text, *module.parameters()):
            leaf.grad = None

    return run


def _peak_bytes(run: Pass, device: torch.device) -> int:
    """Most memory that a second pass holds at once, beyond what was held before it."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    held, peak = 0, 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def token_count(settings: Settings, samples: int) -> int:
    """Tokens of the batch."""
    return 2 * samples * (settings.data.max_frames // settings.frames_per_latent)


def as_table(costs: dict[str, Cost], settings: Settings) -> list[list[str]]:
    """Rows of a table, the first its head."""
    names = {
        "block": f"MoE, {settings.moe.experts} experts, c_exp {settings.moe.c_exp:g}",
        "dense": f"dense SwiGLU, {settings.moe.hidden}",
        "scatter": "MoE, dense scatter",
    }
    rows = [["form", "ms", "x dense", "peak MB", "x scatter", "TFLOP/s", "of peak"]]
    for name in FORMS:
        cost = costs[name]
        rows.append(
            [
                names[name],
                f"{1e3 * cost.seconds:.1f}",
                f"{cost.seconds / costs['dense'].seconds:.2f}",
                f"{cost.peak_mb:.0f}",
                f"{cost.peak_mb / costs['scatter'].peak_mb:.2f}",
                f"{cost.tflops:.3g}",
                "-" if cost.share_of_peak is None else f"{cost.share_of_peak:.1%}",
            ]
        )
    return rows
