"""One person through every command: Solo in HumanML3D's layout, and the networks that generate one person."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_person import motion_features, one_person_model, write_solo_shards
from small_model import WordEncoder, save_model

from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.generation import unsettled_motion
from intermoe.model import InterMoE
from intermoe.motion import Motion
from pipelines import settings
from pipelines.cli import main
from pipelines.register import model_card
from pipelines.site import Site
from pipelines.sweep.file import load as load_sweep
from pipelines.tracking.registry import request_example
from pipelines.train.request import TrainRequest

SMALL = [
    *("vae.width=8", "vae.latent=4", "mld_vae.width=32", "mld_vae.hidden=16", "mld_vae.layers=3"),
    *("denoiser.width=32", "denoiser.layers=3", "moe.experts=4", "moe.hidden=16", "moe.selection=dynamic"),
    *("evaluator.t2m.movement_width=16", "evaluator.t2m.motion_hidden=16", "evaluator.t2m.text_hidden=16"),
    *("evaluator.t2m.word_width=8", "evaluator.t2m.embedding=8", "diffusion.sampler_steps=5", "workers.count=1"),
]
IN_LATENTS = ["diffusion.steps=1000", "diffusion.schedule=scaled_linear", "diffusion.sampler=ddim"]
NETWORKS = {
    "mdm": ["network=mdm"],
    "mld": ["network=mld", "diffusion.prediction=noise", *IN_LATENTS],
    "salad": ["network=salad", "diffusion.prediction=v", *IN_LATENTS],
}
SHORT = ["epochs=1", "batch_size=8", "warmup_epochs=0"]
EVALUATION = ["replications=2", "pool=2", "batch_size=4", "diversity_pairs=2", "multimodality.captions=0"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_command_works_on_one_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["preprocess", "solo", "--count", "24", "--root", "Solo", "--out", "data"]) == 0
    card = DatasetFolder.open(tmp_path / "data").card
    assert (card.skeleton, card.fps, len(card.mean), card.quarantined) == ("humanml22", 20, 263, 0)
    # Nothing is mirrored in training, so captions have no other forms.
    assert all(
        header.mirrored == header.swapped == header.captions for header in DatasetFolder.open("data").headers("train")
    )
    # With the mirror images that the data set holds.
    assert sum(card.recordings.values()) == 48
    # The files that were kept are read as HumanML3D's.
    assert main(["preprocess", "humanml3d", "--root", "Solo", "--out", "again"]) == 0
    assert DatasetFolder.open(tmp_path / "again").card.files == card.files
    evaluator = ["train", "evaluator", "--config", "solo", "--data", "data", "--out", "evaluator", *SMALL]
    assert main([*evaluator, *(f"train.evaluator.{value}" for value in SHORT)]) == 0
    assert (
        main(["evaluate", "--check-recorded", "--evaluator", "evaluator", "--data", "data", "evaluation.pool=2"]) == 0
    )
    for network, chosen in NETWORKS.items():
        more = []
        for target in ("denoiser",) if network == "mdm" else ("vae", "denoiser"):
            values = [*SMALL, *chosen, *(f"train.{target}.{value}" for value in SHORT)]
            out = f"{network}-{target}"
            assert main(["train", target, "--config", "solo", "--data", "data", "--out", out, *more, *values]) == 0
            more = ["--vae", out]
        model = ["--model", f"{network}-denoiser"]
        words = ["evaluate", *model, "--evaluator", "evaluator", "--data", "data", "--out", f"{network}-table"]
        assert main([*words, *(f"evaluation.{value}" for value in EVALUATION)]) == 0
        rows = json.loads((tmp_path / f"{network}-table/results.json").read_text())["rows"]
        assert np.isfinite(rows["generated"]["fid"]["mean"])
        assert ("reconstructed" in rows) == (network != "mdm")
        assert not {"identity", "hands_met", "interpenetration_cm"} & rows["generated"].keys()
        words = ["generate", "A person walks.", *model, "--seconds", "2.05", "--out", f"{network}-motions"]
        assert main([*words, "--routing-map", "--page"]) == 0
        (file,) = (tmp_path / f"{network}-motions").glob("*.npz")
        motion = Motion.load(file)
        assert (motion.joints.shape, motion.fps) == ((41, 1, 22, 3), 20)
        assert len(list((tmp_path / f"{network}-motions").glob("*.bvh"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step", "sampling", "evaluate"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_timed_and_its_products_are_counted(
    network: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench",
        part,
        "--config",
        "solo",
        "--samples",
        "2",
        "--repeats",
        "1",
        "--json",
        *NETWORKS[network],
        *SMALL,
    ]
    words = [word for word in words if part != "sampling" or not word.startswith("diffusion.sampler")]
    assert main([*words, "data.max_frames=41"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    shares = [value for key, value in _leaves(numbers) if key.startswith("share_of") and value is not None]
    assert shares
    # Without a VAE nothing is computed where others decode.
    assert all(0 <= share < 1.5 for share in shares)
    assert max(shares) > 0


def _leaves(numbers: dict[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for key, value in numbers.items():
        parts = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        found += [leaf for part in parts if isinstance(part, dict) for leaf in _leaves(part)] or [(key, value)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mdm", "mld", "salad"])
def test_every_file_of_a_prompt_is_of_one_person(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("intermoe.model.load_encoder", lambda *_: WordEncoder())
    save_model(tmp_path / "model", one_person_model(network, selection="dynamic"))
    words = ["generate", "A person walks.", "He sits.", "--model", "model", "--device", "cpu", "--seconds", "1.5"]
    forms = ["--routing-map", "--clips", "--page", "--amass"]
    assert main([*words, *forms, "--out", "out"]) == 0
    suffixes = (".npz", ".bvh", ".glb", ".mp4", ".png", ".amass.npz", ".routing.png")
    names = [f"{stem}{suffix}" for stem in ("00_a-person-walks", "01_he-sits") for suffix in suffixes]
    assert capsys.readouterr().out.split() == [f"out/{name}" for name in (*names, "clips.glb", "page.html")]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted((*names, "clips.glb", "page.html"))
    motion = Motion.load(tmp_path / "out/01_he-sits.npz")
    assert (motion.joints.shape, motion.fps, motion.skeleton.name) == ((30, 1, 22, 3), 20, "humanml22")


def test_what_needs_two_persons_is_refused_in_one_line_and_nothing_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("intermoe.model.load_encoder", lambda *_: WordEncoder())
    monkeypatch.setattr(InterMoE, "_generate", lambda *_, **__: pytest.fail("a motion is sampled"))
    save_model(tmp_path / "model", one_person_model("mdm"))
    duet = make_interaction(seed=0, index=2)
    Motion(duet.position_TPJ3[:40], duet.rotation_TPR6[:40], 30, "Push.", SMPL22).save(tmp_path / "two.npz")
    features_TPF = torch.from_numpy(motion_features(0))
    unsettled_motion(features_TPF, "a walk.", HUMANML22).save(tmp_path / "one.npz")
    two = "(allowed: a model of two persons)"
    for words, message in (
        (["--given", "two.npz"], f"given: a motion that is known {two}"),
        (["--given", "one.npz"], f"given: a motion that is known {two}"),
        (["--given", "one.npz", "--given-person", "second"], "one.npz: given: person 'second' (allowed: first)"),
        (["--after", "one.npz"], f"after: a motion that is known {two}"),
        (["Sit.", "--in-a-row"], "generate: 2 prompts in a row (allowed: a model of two persons)"),
    ):
        assert main(["generate", "Walk.", *words, "--model", "model", "--device", "cpu", "--out", "out"]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
        assert not list(tmp_path.glob("out/[0-9]*"))


def test_the_card_of_a_model_says_of_how_many_it_is() -> None:
    documents = {"config": {"network": "mdm", "data": {"skeleton": "humanml22"}}}
    card = model_card("solo", "best", documents, data=None, measured={})
    assert card.startswith("# solo\n\nTurns a sentence into the motion of one person: the generator mdm.")
    assert 'intermoe generate "A person bows." --model models:/solo@best --out motions' in card
    assert json.dumps(request_example("bvh", 1)) in card
    assert request_example("bvh", 1)["dataframe_records"][0]["prompt"] == "A person bows."


def test_networks_and_data_of_other_persons_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--config", "solo", "network=intergen"]) == 2
    assert capsys.readouterr().err == (
        "error: solo: network = intergen is for 2 persons, data.skeleton = humanml22 is not"
        " (allowed: smpl22, smplx55)\n"
    )
    assert main(["describe", "--config", "solo", "train.denoiser.loss.velocity=30"]) == 2
    assert capsys.readouterr().err == (
        "error: solo: train.denoiser.loss.velocity = 30.0 with network = mdm, of one person (allowed: 0)\n"
    )


def test_a_vae_of_another_kind_is_told(tmp_path: Path) -> None:
    save_model(tmp_path / "salad", one_person_model("salad"))
    dataset = write_solo_shards(tmp_path / "data", {"train": 2}).path
    chosen = ("network=mld", "diffusion.schedule=scaled_linear", "diffusion.prediction=noise", "diffusion.sampler=ddim")
    wanted = settings.load("solo", settings.parse_overrides(chosen))
    request = TrainRequest(
        "denoiser",
        wanted,
        dataset=dataset,
        out=tmp_path / "run",
        site=Site("sqlite:///nowhere.db"),
        vae=tmp_path / "salad",
    )
    with pytest.raises(UserError) as caught:
        request.checked()
    assert str(caught.value) == f"{tmp_path / 'salad'}: its VAE is salad (allowed: mld, as of network = mld)"


def test_an_evaluator_without_its_words_vectors_is_told_before_it_starts(tmp_path: Path) -> None:
    dataset = write_solo_shards(tmp_path / "data", {"train": 2}).path
    wanted = settings.load("solo", {"evaluator.t2m.vectors": "given"})
    request = TrainRequest(
        "evaluator", wanted, dataset=dataset, out=tmp_path / "run", site=Site("sqlite:///nowhere.db")
    )
    with pytest.raises(UserError) as caught:
        request.checked()
    assert str(caught.value) == (
        "evaluator.t2m.vectors = 'given' without word vectors (allowed: --word-vectors, the folder of T2M's"
        " our_vab_data.npy and what belongs to it, or learned)"
    )
    request = replace(request, site=Site("sqlite:///nowhere.db", word_vectors=tmp_path))
    with pytest.raises(UserError, match=r"our_vab_data\.npy"):
        request.checked()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", NETWORKS)
def test_table_6_trains_each_network_as_its_preset_does(network: str) -> None:
    plan = load_sweep(Path(__file__).parents[2] / "sweeps/table6.yaml", {"profile": "paper"})
    (trial,) = (trial for trial in plan.trials if trial.name == f"{network}-seed0")
    point, preset = (
        settings.flatten(values.model_dump(mode="json")) for values in (trial.settings, settings.load(network))
    )
    assert {key for key in preset if point[key] != preset[key]} <= {"name", "evaluator.t2m.vectors", "workers.gpu"}
