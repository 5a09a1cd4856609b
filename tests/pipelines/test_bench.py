import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards

from intermoe import checkpoint
from intermoe.diffusion.schedule import DiffusionConfig
from intermoe.errors import UserError
from intermoe.evaluation.metrics import Interval
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from intermoe.evaluation.scoring import score
from intermoe.model import InterMoE
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.step import TrainingStep
from pipelines import settings
from pipelines.bench import check, step
from pipelines.bench.evaluation import PartCost, as_table
from pipelines.bench.moe import FORMS, bench_moe
from pipelines.bench.sampling import FORMS as FORMS_OF_SAMPLING
from pipelines.bench.step import PARTS, StepCost
from pipelines.cli import main
from pipelines.describe import describe

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["denoiser.width=64", "moe.hidden=64", "moe.experts=4", "data.max_frames=80"]


@pytest.fixture(autouse=True)
def _room_for_the_tables(monkeypatch):
    """On a slow machine, columns of milliseconds are wide."""
    monkeypatch.setenv("COLUMNS", "200")


def test_the_command_prints_every_form_and_counts_its_products(capsys):
    words = ["bench", "moe", "--samples", "8", "--repeats", "3", "--json", *SMALL]
    before = torch.get_num_threads()
    assert main(words) == 0
    assert torch.get_num_threads() == before
    answer = json.loads(capsys.readouterr().out)
    tokens = 2 * 8 * 20
    assert tuple(answer) == ("tokens", "device", *FORMS)
    assert (answer["tokens"], answer["device"]) == (tokens, "CPU, 1 thread, float32")
    for cost in (answer[name] for name in FORMS):
        assert cost["share_of_peak"] is None
        # The biases are calibrated: as many pairs of token and expert as the dense form has tokens.
        assert cost["tflops"] * cost["seconds"] * 1e12 == pytest.approx(3 * 2 * 3 * tokens * 64 * 64)
    # The weights' gradients are the same in both.
    assert answer["block"]["peak_mb"] < answer["scatter"]["peak_mb"]
    assert main(words[:6] + SMALL) == 0
    table = capsys.readouterr().out
    assert f"Forward + backward of {tokens} tokens on CPU" in table
    assert "dense SwiGLU, 64" in table


@pytest.mark.parametrize("selection", ["dense", "uniform"])
def test_what_cannot_be_compared_is_refused(selection):
    values = settings.load("interhuman", settings.parse_overrides([*SMALL, f"moe.selection={selection}"]))
    with pytest.raises(UserError, match=rf"moe.selection = '{selection}' \(allowed: 'dynamic'\)"):
        bench_moe(values, samples=1, repeats=1, threads=1, progress=lambda *_: None)


@pytest.mark.slow
def test_the_block_is_about_as_fast_as_the_dense_one_and_far_smaller_than_a_scattering_one():
    """On an idle machine at most 1.15 x the time; a test may share it."""
    costs = bench_moe(settings.load("interhuman"), samples=24, repeats=7, threads=1, progress=lambda *_: None)
    assert costs["block"].peak_mb <= 0.5 * costs["scatter"].peak_mb
    assert costs["block"].seconds <= 1.4 * costs["dense"].seconds


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small model with an evaluator and data; nothing has learned anything."""
    root = tmp_path_factory.mktemp("trained")
    model = small_model(data={"max_frames": 40})
    write_shards(root / "data", {"test": 4})
    stored = settings.load("duet").model_dump(mode="json") | model.config.model_dump(mode="json")
    tensors = {name: part.state_dict() for name, part in model.parts().items()}
    checkpoint.save(root / "model", tensors=tensors, documents={"config": stored, "state": {"step": 1}})
    save_model(root / "evaluator", small_evaluator(model))
    return root


def test_samplers_of_initial_weights_are_timed(capsys):
    words = ["bench", "sampling", "--samples", "1", "--repeats", "1", "--json", *SMALL, "denoiser.layers=1"]
    assert main([*words, "diffusion.steps=30", "diffusion.sampler_steps=30"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["samples"], answer["frames"], answer["guidance"]) == (1, 80, 3.5)
    # Of 30 steps, 50 cannot be visited, nor 20 that are evenly spaced.
    forms = [(cost["sampler"], cost["steps"]) for cost in answer["samplers"]]
    assert forms == [("ddim", 10), ("dpm++", 20), ("dpm++", 10), ("dpm++", 8), ("dpm++", 5)]
    for cost in answer["samplers"]:
        assert cost["seconds"] > 0
        assert 0 < cost["share_of_peak"] < 1
        assert (cost["latent_error"], cost["joint_error_cm"], cost["quality"]) == (None, None, {})


@pytest.mark.slow
def test_samplers_of_a_model_are_measured_against_the_converged_sample_and_by_its_evaluator(trained, capsys):
    words = ["bench", "sampling", "--model", str(trained / "model"), "--data", str(trained / "data")]
    words += ["--evaluator", str(trained / "evaluator"), "--samples", "3", "--repeats", "1"]
    few = ["evaluation.replications=2", "evaluation.pool=4", "diffusion.guidance=1.5"]
    assert main([*words, "--json", *few]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["samples"], answer["frames"], answer["guidance"]) == (3, 40, 1.5)
    costs = {(cost["sampler"], cost["steps"]): cost for cost in answer["samplers"]}
    assert tuple(costs) == FORMS_OF_SAMPLING
    errors = {form: cost["latent_error"] for form, cost in costs.items()}
    assert errors["ddim", 50] < errors["ddim", 20] < errors["ddim", 10]
    assert errors["dpm++", 20] < errors["dpm++", 5]
    for cost in costs.values():
        assert cost["joint_error_cm"] > 0
        assert {"fid", "r_precision_top1", "mm_dist", "jerk_m_s3"} <= cost["quality"].keys()
    # As the evaluation of such a model has it.
    spec = EvaluationSpec(
        model=str(trained / "model"),
        evaluator=str(trained / "evaluator"),
        dataset=str(trained / "data"),
        split="test",
        config=EvaluationConfig.parse(
            {"replications": 2, "pool": 4, "batch_size": 20, "multimodality": {"captions": 0}}
        ),
        rows=("generated", "raw"),
        seed=0,
        diffusion=DiffusionConfig(steps=100, sampler="dpm++", sampler_steps=10, guidance=1.5),
        text_folder=None,
        threads=1,
        model_seed=0,
    )
    runner = JobRunner(spec, trained / "parts")
    (trained / "parts").mkdir()
    for job in runner.jobs:
        runner.run(job)
    values = score(runner.folder, spec.config, runner.jobs, read_parts(runner.parts, runner.jobs), seed=0, split="test")
    expected = Interval.of(values.loc["raw"]["fid"].tolist())
    assert costs["dpm++", 10]["quality"]["fid"]["mean"] == pytest.approx(expected.mean, rel=1e-6)
    assert main([*words, *few]) == 0
    assert "Sampling 3 motions of 40 frames, guidance 1.5, on CPU, 1 thread, float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("moe --model m --data d", "moe takes no --model (allowed: sampling --model RUN --data DIR)"),
        ("sampling --data d", "--data and --evaluator without --model (allowed: all of them for sampling)"),
        ("moe --threads 99999", f"--threads 99999 (allowed: up to {os.cpu_count()})"),
        ("feed --samples 5000 --data d", "--samples 5000 (allowed: up to 4096)"),
        ("feed", "feed without --data (allowed: feed --data DIR)"),
        ("sampling --model m", "--model without --data (allowed: --model RUN --data DIR)"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(words, message, capsys):
    assert main(["bench", *words.split()]) == 2
    assert capsys.readouterr().err == f"error: intermoe bench: {message}\n"


def test_feeds_are_measured_with_what_each_part_costs(tmp_path, capsys):
    write_shards(tmp_path, {"train": 6})
    words = ["bench", "feed", "--config", "duet", "--data", str(tmp_path), "--samples", "4", "--repeats", "1"]
    assert main([*words, "--json"]) == 0
    feeds = json.loads(capsys.readouterr().out)["feeds"]
    parts = ("noise", "features", "both")
    assert tuple(feeds) == ("vae", "denoiser", *(f"denoiser without {part}" for part in parts))
    for cost in feeds.values():
        assert cost["samples_per_second"] == pytest.approx(4 / cost["cpu_seconds"])
        assert 0 < cost["share_of_copying"] < 1
    whole, without_noise, without_features, _ = (feeds[name]["megabytes"] for name in list(feeds)[1:])
    num_frames = (whole - without_features) * 1e6 / (4 * 4 * 2 * 262)
    assert num_frames == pytest.approx(140)
    # Of the noise in a motion alone: means are learned, so nothing is drawn from posteriors.
    assert (whole - without_noise) * 1e6 == pytest.approx(4 * num_frames / 4 * 2 * 112 * 4)
    # Where recordings are cropped, the features are always needed.
    assert main([*words, "data.max_frames=40"]) == 0
    table = capsys.readouterr().out
    assert "samples/s" in table
    assert "features" not in table


def test_a_diffusion_of_too_few_steps_for_any_sampler_is_refused(capsys):
    words = ["bench", "sampling", "--samples", "1", "--repeats", "1", *SMALL, "denoiser.layers=1"]
    assert main([*words, "diffusion.steps=1", "diffusion.sampler_steps=1"]) == 2
    assert capsys.readouterr().err == "error: diffusion.steps = 1 (allowed: 5 or more)\n"


TINY = [*SMALL, "denoiser.layers=1", "vae.width=8", "vae.latent=4", "vae.blocks=1", "denoiser.text_layers=1"]


def test_a_step_is_measured_in_both_precisions_with_its_parts_and_its_limit(capsys, monkeypatch):
    monkeypatch.setattr("pipelines.bench.step.peak_flops", lambda _device, dtype: 1e9 * dtype.itemsize)
    monkeypatch.setattr("pipelines.bench.step.bytes_per_second", lambda _device: 1e9)
    words = ["bench", "step", "--samples", "2", "--repeats", "2", *TINY]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["samples"], answer["frames"], answer["device"]) == (2, 80, "CPU, 1 thread")
    assert list(answer["steps"]) == ["fp32", "bf16"]
    # What `describe` says of a step of two samples, and seven passes over the trained weights.
    values = settings.load("interhuman", settings.parse_overrides([*TINY, "train.denoiser.batch_size=2"]))
    described = describe(values)
    flop, weights = described["cost"]["denoiser_step_flop"], 4 * described["parameters"]["trainable"]
    for cost, rate in zip(answer["steps"].values(), (4e9, 2e9), strict=True):
        assert cost["floor"] == pytest.approx(flop / rate + 7 * weights / 1e9)
        assert cost["share_of_limit"] == pytest.approx(cost["floor"] / cost["seconds"])
        assert list(cost["parts"]) == list(PARTS)
        assert min(cost["parts"].values()) > 0
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "- backward and the rest" in table
    assert "Training step of 2 samples of 80 frames on" in table


def test_a_timed_step_is_the_step_that_training_takes():
    """The clocks do not change what is learned."""
    values = settings.load("interhuman", settings.parse_overrides([*TINY, "moe.bias_init=calibrated"]))
    clocked, plain = (_three_steps(values, is_clocked=is_clocked) for is_clocked in (True, False))
    assert torch.equal(clocked, plain)


def _three_steps(values: settings.Settings, *, is_clocked: bool) -> torch.Tensor:
    model = InterMoE.initial(values)
    take_step = TrainingStep(DenoiserObjective(model, values.train.denoiser), step._Endless(0))
    batch = step._batch(model, values, 2)
    for number in range(3):
        with step._clocks(take_step, model, model.device) if is_clocked and number == 1 else nullcontext():
            take_step(number, batch)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.slow
def test_the_parts_of_an_evaluation_are_measured(capsys):
    words = ["bench", "evaluate", "--samples", "3", "--repeats", "1", "--config", "duet", *TINY]
    assert main([*words, "diffusion.sampler_steps=2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["samples"] == 3
    assert list(answer["parts"]) == ["sample", "decode", "settle", "measure", "embed"]
    has_share = [name for name, cost in answer["parts"].items() if cost["share_of_peak"] is not None]
    assert has_share == ["sample", "decode", "embed"]
    assert all(0 < answer["parts"][name]["share_of_peak"] < 1.5 for name in has_share)
    costs = {"sample": PartCost(0.3, 0.5), "settle": PartCost(0.1, None)}
    assert as_table(costs)[1:] == [
        ["sample", "300.0", "75%", "50%"],
        ["settle", "100.0", "25%", "-"],
        ["all", "400.0", "100%", ""],
    ]


@pytest.mark.slow
def test_a_device_is_checked_without_ray_and_mlflow_from_any_folder(tmp_path):
    for name in ("ray", "mlflow"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    (tmp_path / "small.yaml").write_text((ROOT / "pipelines/presets/interhuman.yaml").read_text())
    words = ["--config", "small.yaml", "--samples", "2", *TINY, "diffusion.steps=10", "diffusion.sampler_steps=5"]
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "infra/gpu-check", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("interhuman, 2 samples, CPU")
    for line in (
        "square product, bfloat16",
        "training step, bf16",
        "- backward and the rest, waited for",
        "sampling, bf16, dpm++, 5 steps",
        "evaluation, fp32: embed",
    ):
        assert line in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config", "nonsense"],
            (
                "unknown preset 'nonsense' (allowed: duet, intergen, interhuman, interhuman-plus, interx, mdm, mld, "
                "salad, solo, timotion, or "
                "a .yaml file)"
            ),
        ),
        (["--samples", "0"], "gpu-check: --samples 0 (allowed: 1 or more)"),
        (["moe.experts=0"], "interhuman: moe.experts = 0 (allowed: greater than or equal to 1)"),
    ],
)
def test_a_check_of_what_is_wrong_is_refused_in_a_line(words, message, capsys):
    assert check.main(words) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_part_that_needs_more_memory_than_there_is_leaves_the_others(monkeypatch, capsys):
    def too_large(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("bench_moe", "bench_sampling", "bench_evaluation"):
        monkeypatch.setattr(check, name, too_large)
    monkeypatch.setattr(check, "peak_flops", lambda *_: 1e12)
    monkeypatch.setattr(check, "bytes_per_second", lambda *_: 1e9)
    cost = StepCost(0.5, {"VAE": 0.125}, 0.25, 0.5)
    monkeypatch.setattr(check, "bench_step", lambda *_args, **_kwargs: {"fp32": cost})
    assert check.main(["--samples", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[5:] == [
        "moe: the device has no memory for 3 samples",
        f"{'training step, fp32':60}      500.00       50%",
        f"{'- VAE, waited for':60}      125.00         -",
        "samplers: the device has no memory for 3 samples",
        "evaluation: the device has no memory for 3 samples",
    ]
