"""Samplers against each other: the time of a motion, how near it is to the converged sample, and its quality.

Legend: B motions, L latent frames, P persons, Z latent numbers of a person-frame, W condition width, T frames,
J joints.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from intermoe.body.features import joints_from_features
from intermoe.data.draws import Stream, normal, prompt_seeds
from intermoe.data.shards import DatasetFolder
from intermoe.diffusion import samplers
from intermoe.diffusion.schedule import Diffusion, SamplerName
from intermoe.errors import UserError
from intermoe.evaluation import measures
from intermoe.evaluation.metrics import Interval
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.generation import best_device, eval_mode
from intermoe.layers.precision import dtype_of
from intermoe.model import InterMoE
from intermoe.places import Place
from intermoe.text.encoders import encoder_width
from pipelines.bench.machine import peak_flops, seconds_of, threads_of
from pipelines.describe import TEXT_TOKENS, denoiser_flop
from pipelines.settings import Settings

Form = tuple[SamplerName, int]
FORMS: Sequence[Form] = (
    ("ddim", 50), ("ddim", 20), ("ddim", 10), ("dpm++", 20), ("dpm++", 10), ("dpm++", 8), ("dpm++", 5),
)  # fmt: skip
"""Samplers and their numbers of steps."""
MEASURES = ("fid", "r_precision_top1", "mm_dist", "identity", "jerk_m_s3")
"""The measures of the quality of the network's own output."""
_CONVERGED_STEPS = 200

_Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SamplerCost:
    """The cost and the quality of one sampler.

    Attributes:
        seconds: of the sampling of one batch, without decoding; the median over the repetitions.
        share_of_peak: the rate of its products, as a share of that of a large square one.
        latent_error: the distance to the converged sample, as a share of its root mean square; None without a model.
        joint_error_cm: mean distance of the joints to those of the converged sample; None without a model.
        quality: mean and 95% interval of each measure over the replications; empty without an evaluator.
    """

    seconds: float
    share_of_peak: float
    latent_error: float | None
    joint_error_cm: float | None
    quality: Mapping[str, Interval]


@dataclass(frozen=True)
class TrainedModel:
    """What tells samplers apart by more than their time.

    Attributes:
        model: run or checkpoint of a denoiser.
        data: shards, of whose test split captions and recordings are.
        evaluator: run or checkpoint of an evaluator, for the quality; None without.
    """

    model: Place
    data: Place
    evaluator: Place | None


def bench_sampling(
    settings: Settings,
    trained: TrainedModel | None,
    *,
    samples: int,
    repeats: int,
    threads: int,
    progress: _Progress,
) -> dict[Form, SamplerCost]:
    """Sample a batch of the longest motions in every form, in turns.

    Args:
        settings: of the networks; those of the trained model, if there is one.
        trained: a model and its data; with initial weights there is only time to measure.
        samples: motions in the batch.
        repeats: timed samples in each form.
        threads: of the CPU.
        progress: called with a stage, how much of it is done, and of how much.

    Returns:
        The cost of each of ``FORMS`` that the diffusion has enough steps for.
    """
    with threads_of(threads):
        return _measure(settings, trained, samples, repeats, progress)


@torch.no_grad()
def _measure(
    settings: Settings, trained: TrainedModel | None, samples: int, repeats: int, progress: _Progress
) -> dict[Form, SamplerCost]:
    device = best_device()
    model = InterMoE.load(trained.model) if trained else InterMoE.initial(settings, seed=settings.seed)
    model = model.to(device)
    forms = [form for form in FORMS if _fits(settings, form)]
    if not forms:
        raise UserError(f"diffusion.steps = {settings.diffusion.steps}", allowed="5 or more")
    length = model.whole_latents(settings.data.max_frames)
    shape = length, model.skeleton.num_persons, model.latent
    noise_BLPZ = normal(prompt_seeds(settings.seed, [""] * samples), shape, Stream.LATENT)
    condition_BW = _conditions(model, trained, samples)
    with eval_mode(model):
        sample = partial(_sample, model, noise_BLPZ.to(device), condition_BW)
        converged: Form = ("dpm++", min(_CONVERGED_STEPS, settings.diffusion.steps))
        converged_BLPZ = sample(_diffusion(settings, converged)) if trained else None
        seconds: dict[Form, list[float]] = {form: [] for form in forms}
        latents = {form: sample(_diffusion(settings, form)) for form in forms}  # also warms up
        for number in range(repeats):
            progress("bench sampling", number, repeats)
            for form, times in seconds.items():
                times.append(seconds_of(partial(sample, _diffusion(settings, form)), device))
        progress("bench sampling", repeats, repeats)
        peak = peak_flops(device, dtype_of(settings.diffusion.precision, device))
        flop = denoiser_flop(model, settings, samples)
        costs = {}
        for number, form in enumerate(forms):
            if trained and trained.evaluator:
                progress("quality", number, len(forms))
            median = statistics.median(seconds[form])
            latent, cm = (None, None) if converged_BLPZ is None else _errors(model, latents[form], converged_BLPZ)
            quality = _quality(settings, trained, form) if trained and trained.evaluator else {}
            share = passes(_diffusion(settings, form)) * flop / median / peak
            costs[form] = SamplerCost(median, share, latent, cm, quality)
    return costs


def _fits(settings: Settings, form: Form) -> bool:
    sampler, steps = form
    return steps <= settings.diffusion.steps and (sampler != "ddim" or settings.diffusion.steps % steps == 0)


def _diffusion(settings: Settings, form: Form) -> Diffusion:
    sampler, steps = form
    return Diffusion(settings.diffusion).resampled({"sampler": sampler, "sampler_steps": steps, "spacing": None})


def passes(diffusion: Diffusion) -> int:
    """Passes of the denoiser over the batch: two in each step where guidance applies, else one."""
    return sum(2 if diffusion.config.is_guided(t) else 1 for t in samplers.timesteps(diffusion))


def _conditions(model: InterMoE, trained: TrainedModel | None, samples: int) -> Tensor:
    """Of the first captions of the test split, in turns; anything without a trained model."""
    if trained is None:
        return made_up_condition(model, samples)
    folder = DatasetFolder.open(trained.data)
    headers = folder.headers("test")
    if not headers:
        raise UserError("the test split is empty", where=trained.data)
    chosen = [headers[number % len(headers)] for number in range(samples)]
    conditions = model.read_captions(folder, chosen, [header.captions[0] for header in chosen])
    return model.condition(conditions.text)


def made_up_condition(model: InterMoE, samples: int, seed: int = 0) -> Tensor:
    """Random numbers in the place of what the network reads of texts: of all tokens, if it reads their states."""
    tokens = (TEXT_TOKENS,) if model.denoiser.reads == "words" else ()
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *tokens, encoder_width(model.config.data.encoder), generator=rng).to(model.device)


def _sample(model: InterMoE, noise_BLPZ: Tensor, condition_BW: Tensor, diffusion: Diffusion) -> Tensor:
    model.diffusion = diffusion
    return model.sample(noise_BLPZ, condition_BW)


def _errors(model: InterMoE, latent_BLPZ: Tensor, converged_BLPZ: Tensor) -> tuple[float, float]:
    """Relative root mean square error of latents, and mean distance of joints in cm."""
    joints_BPTJ3, expected_BPTJ3 = (
        joints_from_features(model.decode(latents).transpose(1, 2), model.skeleton)
        for latents in (latent_BLPZ, converged_BLPZ)
    )
    relative = (latent_BLPZ - converged_BLPZ).square().mean().sqrt() / converged_BLPZ.square().mean().sqrt()
    return relative.item(), 100 * (joints_BPTJ3 - expected_BPTJ3).norm(dim=-1).mean().item()


def _quality(settings: Settings, trained: TrainedModel, form: Form) -> dict[str, Interval]:
    """Of the network's own output, unsettled, as an evaluation measures it on the test split."""
    config = settings.evaluation.model_copy(
        update={"multimodality": settings.evaluation.multimodality.model_copy(update={"captions": 0})}
    )
    spec = EvaluationSpec(
        model=str(trained.model),
        evaluator=str(trained.evaluator),
        dataset=str(trained.data),
        split="test",
        config=config,
        rows=("generated", "raw"),
        seed=settings.seed,
        diffusion=_diffusion(settings, form).config,
        text_folder=None,
        threads=torch.get_num_threads(),
        model_seed=settings.seed,
    )
    with tempfile.TemporaryDirectory(prefix="intermoe-bench-") as folder:
        runner = JobRunner(spec, Path(folder), device=str(best_device()))
        jobs = [job for job in runner.jobs if job.purpose != "swapped"]
        for job in jobs:
            runner.run(job)
        parts, scales = read_parts(Path(folder), jobs), runner.evaluator.config.conventions.scales
        values = score(runner.folder, config, jobs, parts, seed=spec.seed, split="test", scales=scales)
    raw = {name: values.xs("raw", level="row")[name].dropna().tolist() for name in MEASURES}
    return {name: Interval.of(taken) for name, taken in raw.items() if taken}


def as_table(costs: Mapping[Form, SamplerCost]) -> list[list[str]]:
    """Rows of a table, the first its head."""
    first = next(iter(costs.values()))
    names = [name for name in MEASURES if name in first.quality]
    has_errors = first.latent_error is not None
    head = ["sampler", "steps", "seconds", "x first", "of peak"]
    head += ["latents off by", "joints off by, cm"] if has_errors else []
    rows = [[*head, *(measures.MEASURES[name].title for name in names)]]
    for (sampler, steps), cost in costs.items():
        row = [sampler, str(steps), f"{cost.seconds:.3f}", f"{cost.seconds / first.seconds:.2f}"]
        row.append(f"{cost.share_of_peak:.0%}")
        if cost.latent_error is not None:
            row += [f"{cost.latent_error:.3f}", f"{cost.joint_error_cm:.1f}"]
        rows.append([*row, *(_text(cost.quality[name]) for name in names)])
    return rows


def _text(interval: Interval) -> str:
    return f"{interval.mean:.4g} ±{interval.half_width:.2g}"


def as_document(costs: Mapping[Form, SamplerCost]) -> list[dict[str, object]]:
    """Plain values of each form."""
    return [{"sampler": sampler, "steps": steps, **asdict(cost)} for (sampler, steps), cost in costs.items()]
