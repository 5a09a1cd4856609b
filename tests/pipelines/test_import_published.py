"""Published files through the command, and what can then be done with them."""

from pathlib import Path

import pytest
from published_files import JUDGE_WORDS, SMALL_WORDS, evaluator_file, small_files, write_stats
from published_t2m import WORDS as T2M_WORDS
from published_t2m import write_t2m
from word_files import WORDS, write_word_files

from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.conventions import EvaluatorConventions, KnownRow
from intermoe.evaluation.evaluator import Evaluator
from intermoe.evaluation.metrics import MetricScales
from intermoe.model import InterMoE
from pipelines import settings
from pipelines.cli import main
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.site import Site
from pipelines.train.objectives import build


@pytest.fixture(scope="module")
def imported(tmp_path_factory, vocabulary) -> Path:
    """A generator and an evaluator, imported by the command."""
    folder = tmp_path_factory.mktemp("imported")
    files, stats = small_files(folder), write_stats(folder / "stats")
    paths = ["--denoiser", files["denoiser"], "--vae", files["vae"], "--stats", stats]
    assert main(list(map(str, ["import", "published", *paths, "--out", folder / "model", *SMALL_WORDS]))) == 0
    judge, _ = evaluator_file(folder / "interclip.ckpt", vocabulary)
    words = [*JUDGE_WORDS, f"evaluator.vocabulary={vocabulary}"]
    command = ["import", "published", "--evaluator", judge, "--out", folder / "evaluator", *words]
    assert main(list(map(str, command))) == 0
    return folder


def test_an_evaluator_brings_its_conventions(imported, vocabulary, tmp_path):
    """Small networks are not InterCLIP and have no known row, unless the command names one."""
    conventions = Evaluator.load(imported / "evaluator").config.conventions
    assert conventions == EvaluatorConventions()
    known = "{dataset: tiny, skeleton: smpl22, origin: run here, source: a test, ranges: {fid: [0, 2]}}"
    words = [*JUDGE_WORDS, f"evaluator.vocabulary={vocabulary}", f"evaluator.conventions.known_row={known}"]
    file, out = imported / "interclip.ckpt", tmp_path / "evaluator"
    assert main(["import", "published", "--evaluator", str(file), "--out", str(out), *words]) == 0
    assert Evaluator.load(out).config.conventions.known_row == KnownRow(
        dataset="tiny", skeleton="smpl22", origin="run here", source="a test", ranges={"fid": (0, 2)}
    )


def test_generate_works_with_it(imported, clip_folder):
    model = InterMoE.load(imported / "model", text_folder=clip_folder)
    assert model.config.moe.timestep_in_router
    motion = model.generate("two people bow", seconds=1, seed=0)
    assert motion.joints.shape == (30, 2, 22, 3)


@pytest.mark.slow
def test_evaluate_works_with_it(imported, clip_shards, clip_folder, store, tmp_path):
    request = EvaluateRequest(
        imported / "model",
        out=tmp_path / "results",
        site=Site(store, clip_folder),
        dataset=clip_shards,
        evaluator=imported / "evaluator",
        overrides={"evaluation": {"replications": 1, "pool": 2, "batch_size": 2, "multimodality": {"captions": 0}}},
        rows=("recorded", "generated"),
    )
    results = evaluate(request.checked(), progress=lambda *_: None)
    assert results.metrics("generated")["fid"] > 0
    # Random texts and motions of length 2.5: at most 5 apart.
    assert 0 < results.metrics("recorded")["mm_dist"] < 5


def test_an_evaluator_that_reads_tokens_can_be_trained(clip_shards, clip_folder, vocabulary):
    words = ["data.max_frames=60", "train.evaluator.batch_size=4", f"evaluator.vocabulary={vocabulary}", *JUDGE_WORDS]
    values = settings.load("interhuman", settings.parse_overrides(words))
    folder = DatasetFolder.open(clip_shards)
    objective = build("evaluator", values, folder, vae=None, site=Site("", clip_folder)).eval()
    batch = next(objective.stream(DatasetFolder.open(clip_shards)).held_out("train").held_out_batches(rank=0, world=1))
    loss = objective(batch)["contrast"]
    loss.backward()
    assert loss > 0
    assert isinstance(objective.model, Evaluator)
    assert objective.model.text.out.weight.grad.abs().sum() > 0
    assert not objective.model.token_VW.requires_grad
    assert objective.model.token_VW.abs().sum() > 0


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    files, stats = small_files(tmp_path), write_stats(tmp_path / "stats")
    denoiser, vae = files["denoiser"], files["vae"]
    out = tmp_path / "out"

    def refused(*words: object) -> str:
        assert main(list(map(str, ["import", "published", "--out", out, *words]))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists()
        return line

    whole = ("--denoiser", denoiser, "--vae", vae, "--stats", stats)
    assert "--vae is not given (allowed: --denoiser, --vae and --stats, or --evaluator)" in refused(*whole[:2])
    assert "--stats beside --evaluator" in refused("--evaluator", vae, "--stats", stats)
    # The whole size, of which these files are not.
    assert "has the shape" in refused(*whole, "vae.width=32", "vae.latent=32")
    assert "no such file" in refused(*whole[:2], "--vae", tmp_path / "absent", "--stats", stats, *SMALL_WORDS)
    denoiser.write_bytes(denoiser.read_bytes()[:5000])
    assert "denoiser.ckpt" in refused(*whole, *SMALL_WORDS)
    out.mkdir()
    (out / "file").touch()
    assert main(list(map(str, ["import", "published", "--out", out, *whole, *SMALL_WORDS]))) == 2
    assert "exists already" in capsys.readouterr().err


def test_t2ms_evaluator_comes_from_its_files(tmp_path, capsys):
    write_t2m(tmp_path)
    write_word_files(tmp_path / "words", width=5)
    whole = ("--evaluator", tmp_path / "finest.tar", "--stats", tmp_path, "--word-vectors", tmp_path / "words")

    def imported(*words: object) -> int:
        return main(list(map(str, ["import", "published", "--config", "mdm", "--out", tmp_path / "out", *words])))

    beside = "--stats beside --evaluator (allowed: --evaluator alone, or evaluator.kind=t2m)"
    for given, message in (
        (whole[:2], "--stats is not given (allowed: --evaluator, --stats and --word-vectors for T2M's)"),
        (whole[:4], "--word-vectors is not given (allowed: --evaluator, --stats and --word-vectors for T2M's)"),
        ((*whole, "--vae", tmp_path), "--vae beside --evaluator (allowed: one checkpoint per command)"),
        (whole[4:], "--word-vectors without --evaluator (allowed: with the files of T2M's evaluator)"),
    ):
        assert imported(*given, *T2M_WORDS) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
    assert imported(*whole, *T2M_WORDS, "evaluator.kind=interclip") == 2
    assert capsys.readouterr().err == f"error: {beside}\n"
    assert not (tmp_path / "out").exists()
    assert imported(*whole, *T2M_WORDS) == 0
    evaluator = Evaluator.load(tmp_path / "out")
    assert evaluator.vocabulary.words == WORDS
    assert evaluator.config.conventions.scales == MetricScales(fid=1, diversity=1, multimodality=1)
