"""InterGen and TIMotion from training to motions: the same commands, without a VAE."""

from pathlib import Path

import pytest

from intermoe import checkpoint
from intermoe.errors import UserError
from intermoe.files import read_note
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.training import geometric
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.request import EvaluateRequest
from pipelines.generate import GenerateRequest, generate
from pipelines.site import Site
from pipelines.train.request import TrainRequest

pytestmark = pytest.mark.slow

LOSSES = geometric.LOSSES["intergen"]
RIVALS = {"intergen": ("moe.selection=dense",), "timotion": ()}
WORDS = ("diffusion.error=latent",)


@pytest.fixture(scope="module", params=list(RIVALS))
def trained(request, run_workers, tiny, tmp_path_factory):
    """The name of a network, the run of its training, and what that logged."""
    name = request.param
    out = tmp_path_factory.mktemp("trained") / name
    values = tiny("denoiser", 3, f"network={name}", *RIVALS[name], *WORDS)
    return name, out, run_workers("denoiser", values, out)


@pytest.fixture(scope="module")
def evaluator(run_workers, tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "evaluator"
    run_workers("evaluator", tiny("evaluator", 3), out)
    return out


def test_each_loss_is_a_curve(trained):
    _, _, history = trained
    for name in ("diffusion", *LOSSES):
        assert [step for step, _ in history(f"loss/train_{name}")] == [1, 2, 3], name


def test_its_checkpoint_holds_no_vae(trained):
    name, out, _ = trained
    assert checkpoint.documents(out / "best")["config"]["network"] == name
    assert not (out / "best" / "vae.safetensors").exists()
    assert InterMoE.load(out).vae is None


def test_an_evaluation_has_no_reconstructed_rows(trained, evaluator, shards, store, tmp_path):
    _, out, _ = trained
    request = EvaluateRequest(out, tmp_path / "table", Site(store), shards, evaluator)
    results = evaluate(request.checked(), progress=lambda *_: None)
    rows = results.values.index.get_level_values("row").unique()
    assert list(rows) == ["recorded", "generated", "raw", "untrained"]
    assert read_note(tmp_path / "table" / "results.json")["about"]["rows"] == list(rows)
    assert results.values.xs("raw", level="row")["fid"].gt(0).all()


def test_motions_are_generated_with_all_that_is_shown(trained, tmp_path):
    name, out, _ = trained
    prompts = ["Two people bow.", "They hug."]
    request = GenerateRequest(prompts, tmp_path / "motions", seconds=1, routing_map=name != "intergen", page=True)
    files = generate(InterMoE.load(out), request.checked(), progress=lambda *_: None)
    assert tmp_path / "motions" / "page.html" in files
    motions = [Motion.load(file) for file in sorted((tmp_path / "motions").glob("*.npz"))]
    assert [motion.joints.shape for motion in motions] == [(30, 2, 22, 3)] * 2


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(trained, run_workers, tiny, tmp_path):
    name, out, _ = trained
    values = tiny("denoiser", 3, f"network={name}", *RIVALS[name], *WORDS, "train.denoiser.checkpoint_every=1")
    run_workers("denoiser", values, tmp_path / "run", stop=2)
    run_workers("denoiser", values, tmp_path / "run")
    expected, found = (checkpoint.load(folder / "best").tensors for folder in (out, tmp_path / "run"))
    for part, tensors in expected.items():
        for key, tensor in tensors.items():
            assert found[part][key].equal(tensor), (part, key)


@pytest.mark.parametrize("name", list(RIVALS))
def test_a_vae_is_neither_trained_nor_taken(name, tiny, shards, store, tmp_path):
    values = tiny("denoiser", 3, f"network={name}", "diffusion.error=latent")
    request = {"settings": values, "dataset": shards, "out": tmp_path / "run", "site": Site(store)}
    with pytest.raises(UserError) as caught:
        TrainRequest("vae", **request).checked()
    assert str(caught.value) == f"train vae: network = {name} has no VAE (allowed: train denoiser)"
    with pytest.raises(UserError) as caught:
        TrainRequest("denoiser", vae=Path("runs/vae"), **request).checked()
    assert str(caught.value) == f"--vae: runs/vae is given (allowed: none: network = {name} has no VAE)"
    assert TrainRequest("denoiser", **request).checked().request.vae is None
