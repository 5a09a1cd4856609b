import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest

from intermoe.errors import UserError
from pipelines.settings import Settings, flatten, load, overridden, parse_overrides, presets

SMALL = """
name: small
train:
  vae: {epochs: 1, batch_size: 8}
  denoiser: {epochs: 1, batch_size: 12, accumulate: 3}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def refused(config, *overrides) -> str:
    with pytest.raises(UserError) as caught:
        load(str(config), parse_overrides(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_bears_its_name(name):
    values = load(name)
    assert values.name == name
    assert Settings.parse(values.model_dump(mode="json")) == values


def test_the_interhuman_preset_is_the_papers_number_for_number():
    values = load("interhuman")
    vae, denoiser = values.train.vae, values.train.denoiser
    assert (vae.epochs, denoiser.epochs) == (100, 1000)
    assert (vae.batch_size, denoiser.batch_size) == (256, 64)
    for training in (vae, denoiser):
        assert training.learning_rate == 1e-4
        assert training.warmup_epochs == 10
        assert training.betas == (0.9, 0.999)
        assert training.weight_decay == 2e-5
        assert training.clip == 1.0
    assert (vae.window, vae.stride) == (64, 10)
    assert vae.loss.model_dump() == {
        "reconstruction": 1.0,
        "kl": 0.02,
        "position": 0.5,
        "velocity": 0.5,
        "rotation": 0.5,
        "bone": 0.0,
        "displacement": 0.0,
        "end_effector": 0.0,
        "rotation_squared": 0.0,
    }
    assert values.diffusion.model_dump() == {
        "steps": 1000,
        "schedule": "cosine",
        "prediction": "x0",
        "sampler": "ddim",
        "sampler_steps": 50,
        "spacing": None,
        "guidance": 3.5,
        "guidance_interval": (0.0, 1.0),
        "precision": "fp32",
        "condition_drop": 0.1,
        "difference_loss": 0.0,
        "target": "sample",
        "error": "latent",
        "hand_contact_loss": 0.0,
    }
    moe = values.moe
    assert (moe.selection, moe.experts, moe.hidden, moe.c_exp) == ("dynamic", 8, 1024, 1.0)
    assert (moe.alpha, moe.sigma, moe.bias_init, moe.timestep_in_router) == (0.5, 1e-4, -0.5, False)
    assert values.denoiser.model_dump() == {
        "width": 768,
        "layers": 8,
        "heads": 8,
        "dropout": 0.1,
        "text_layers": 2,
        "text_hidden": 2048,
        "text_heads": 8,
        "person_embedding": False,
        "person_conditioning": False,
    }
    assert values.vae.model_dump() == {"width": 64, "latent": 64, "blocks": 2, "dropout": 0.1}
    assert values.data.model_dump() == {
        "skeleton": "smpl22",
        "encoder": "clip",
        "max_frames": 300,
        "persons": "drawn",
    }


def test_interhuman_plus_is_the_papers_network_with_what_helps():
    paper, plus = (flatten(load(name).model_dump(mode="json")) for name in ("interhuman", "interhuman-plus"))
    assert {key: value for key, value in plus.items() if paper[key] != value} == {
        "name": "interhuman-plus",
        "data.persons": "named",
        "denoiser.person_embedding": True,
        "denoiser.person_conditioning": True,
        "moe.load_momentum": 0.9,
        "moe.bias_init": "calibrated",
        "diffusion.sampler": "dpm++",
        "diffusion.sampler_steps": 10,
        "diffusion.guidance_interval": [0.2, 1.0],
        "diffusion.difference_loss": 4.0,
        "diffusion.target": "mean",
        "diffusion.error": "decoded",
        "diffusion.hand_contact_loss": 0.1,
        "train.denoiser.group_by_length": True,
        "train.vae.loss.bone": 1.0,
        "train.vae.loss.displacement": 0.5,
        "train.vae.loss.rotation_squared": 1.0,
    }


def test_overrides_are_yaml_and_the_last_one_counts(file):
    values = load(
        str(file),
        parse_overrides(
            [
                "moe.experts=4",
                "moe.experts=16",
                "train.vae.learning_rate=1e-3",
                "train.vae.betas=[0.8, 0.9]",
                "train.vae.loss.kl=0.5",
                "workers.gpu=true",
                "moe.selection=dense",
                "seed=7",
                "name=other",
                "train.denoiser.epochs=0.25",
            ]
        ),
    )
    assert values.moe.experts == 16
    assert values.train.vae.learning_rate == 0.001
    assert values.train.vae.betas == (0.8, 0.9)
    assert values.train.vae.loss.kl == 0.5
    assert values.train.vae.loss.position == 0.5, "the rest of the section stays"
    assert values.workers.gpu is True
    assert (values.moe.selection, values.seed, values.name) == ("dense", 7, "other")
    assert values.train.denoiser.epochs == 0.25
    assert values.train.denoiser.batch_size == 12


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001", "'1e-3'"])
def test_small_numbers_are_read_however_they_are_written(text, file):
    assert load(str(file), parse_overrides([f"train.vae.learning_rate={text}"])).train.vae.learning_rate == 1e-3
    assert load(str(file), parse_overrides([f"train.vae.loss.kl={text}"])).train.vae.loss.kl == 1e-3
    spelt = file.with_name("spelt.yaml")
    spelt.write_text(SMALL.replace("batch_size: 8", f"batch_size: 8, learning_rate: {text}"))
    assert load(str(spelt)).train.vae.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("moe.expert=4", "did you mean 'moe.experts'?"),
        ("mo.experts=4", "unknown key 'mo' (allowed: data, network, vae, mld_vae, denoiser, timotion, moe,"),
        ("mo.experts=4", "did you mean 'moe'?"),
        ("experts=4", "unknown key 'experts'"),
        ("experts=4", "did you mean 'moe.experts'?"),
        ("train.denoiser.batchsize=4", "did you mean 'train.denoiser.batch_size'?"),
        ("train.denoiser.window=64", "unknown key 'train.denoiser.window'"),
        ("=4", "unknown key ''"),
        ("moe.experts.x=4", "moe.experts = {'x': 4} (allowed: a valid integer)"),
        ("moe.experts=0", "moe.experts = 0 (allowed: greater than or equal to 1)"),
        ("moe.experts=many", "moe.experts = 'many' (allowed: a valid integer"),
        ("moe.experts=", "moe.experts = None (allowed: a valid integer)"),
        ("moe.alpha=1.5", "moe.alpha = 1.5 (allowed: less than or equal to 1)"),
        (
            "moe.selection=random",
            "moe.selection = 'random' (allowed: 'dynamic', 'token_choice', 'expert_choice', 'uniform' or 'dense')",
        ),
        ("moe.c_exp=9", "c_exp = 9.0"),
        ("moe.bias_init=0.5", "moe.bias_init = 0.5 (allowed: less than 0 or 'calibrated')"),
        ("moe.pool=all", "moe.pool = 'all' (allowed: 'sequence', 'worker' or 'global')"),
        ("moe=4", "moe = 4 (allowed: keys below it: experts, c_exp,"),
        ("train.vae.betas=[0.9, 2]", "train.vae.betas.1 = 2 (allowed: less than 1)"),
        ("train.vae.learning_rate=.nan", "train.vae.learning_rate = nan (allowed: a finite number)"),
        ("train.vae.epochs=0", "train.vae.epochs = 0 (allowed: greater than 0)"),
        ("train.vae.window=30", "train.vae: window = 30 is not a multiple of 4"),
        ("denoiser.heads=5", "denoiser: width = 768 is not divided by heads = 5"),
        ("diffusion.sampler_steps=33", "diffusion: sampler_steps = 33 is not a divisor of steps = 1000"),
        ("diffusion.ddim_steps=20", "diffusion: ddim_steps is called sampler_steps since there are other samplers"),
        (
            "diffusion.sampler_steps=2000",
            "diffusion: sampler_steps = 2000 is more than steps = 1000 (allowed",
        ),
        (
            "diffusion.guidance_interval=abc",
            "diffusion.guidance_interval = 'abc' (allowed: two shares of the steps",
        ),
        ("data.encoder=bert", "data.encoder = 'bert' (allowed: 'minilm' or 'clip')"),
        ("data.skeleton=smpl", "data.skeleton = 'smpl' (allowed: one of smpl22, smplx55, humanml22)"),
        ("name=My Run", "name = 'My Run' (allowed:"),
        ("seed=-1", "seed = -1 (allowed: greater than or equal to 0)"),
        ("workers.count=0", "workers.count = 0 (allowed: greater than or equal to 1)"),
        ("workers.gpu=maybe", "workers.gpu = 'maybe' (allowed: a valid boolean"),
    ],
)
def test_a_mistaken_override_is_told(file, override, message):
    told = refused(file, override)
    assert told.startswith(f"{file}: ")
    assert message in told


def test_a_key_below_a_value_of_the_file_is_told(file):
    told = refused(file, "train.vae.epochs.x=4")
    assert told == "unknown key 'train.vae.epochs.x' (allowed: epochs is a single value)"


@pytest.mark.parametrize("word", ["moe.experts", "moe.experts: 4", "", "seed=[1", "seed={", "seed=2020-13-45"])
def test_what_is_no_override_is_told(file, word):
    assert refused(file, word).startswith(f"{word!r} is not an override (allowed: ")


@pytest.mark.parametrize(("count", "allowed"), [(3, "3"), (5, "5"), (16, "16")])
def test_workers_that_do_not_divide_the_vaes_batch(file, count, allowed):
    told = refused(file, f"workers.count={count}")
    assert told == (
        f"{file}: train.vae.batch_size = 8 is not divided by workers.count x train.vae.accumulate = {count} x 1 "
        f"(allowed: a multiple of {allowed})"
    )


def test_fewer_workers_divide_the_batches_too_and_are_not_more_than_all(file):
    assert load(str(file), parse_overrides(["workers.count=4", "workers.min_count=2"])).workers.fewest.count == 2
    assert refused(file, "workers.count=4", "workers.min_count=3") == (
        f"{file}: train.vae.batch_size = 8 is not divided by workers.min_count x train.vae.accumulate = 3 x 1 "
        "(allowed: a multiple of 3)"
    )
    assert refused(file, "workers.min_count=2") == (f"{file}: workers: min_count = 2 (allowed: up to count = 1)")


def test_workers_and_micro_batches_divide_the_denoisers_batch_together(file):
    assert load(str(file), parse_overrides(["workers.count=4"])).workers.count == 4
    told = refused(file, "workers.count=8")
    assert "train.denoiser.batch_size = 12 is not divided" in told
    assert "= 8 x 3 (allowed: a multiple of 24)" in told


@pytest.mark.parametrize("name", ["duett", "", "../presets/duet", "interhuman.yml.bak", "DUET"])
def test_an_unknown_preset_is_told_with_those_that_are(name):
    assert refused(name) == f"unknown preset {name!r} (allowed: {', '.join(presets())}, or a .yaml file)"


def test_a_file_says_what_is_different_from_its_base(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: interhuman\nname: mine\nmoe: {experts: 16}\ntrain: {vae: {loss: {kl: 0.1}}}\n")
    theirs, mine = (flatten(load(config).model_dump(mode="json")) for config in ("interhuman", str(file)))
    assert {key: value for key, value in mine.items() if theirs[key] != value} == {
        "name": "mine",
        "moe.experts": 16,
        "train.vae.loss.kl": 0.1,
    }
    assert load(str(file), {"moe.experts": 4}).moe.experts == 4
    file.write_text("base: intergen\nname: mine\n")
    assert load(str(file)).network == "intergen", "whose base has one too"
    file.write_text("base: intergen\n")
    assert refused(file) == f"{file}: key 'name' is missing"


def test_a_section_that_is_given_twice_is_told(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: duet\nname: mine\nmoe: {experts: 16}\nmoe: {c_exp: 2}\n")
    assert refused(file) == f"{file}:4: not valid YAML: key 'moe' is given twice"


@pytest.mark.parametrize("base", ["interhumans", "mine.yaml", 3, ["duet"]])
def test_a_base_that_is_no_preset_is_told(tmp_path, base):
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {base}\nname: mine\n")
    assert refused(file) == f"{file}: base = {base!r} (allowed: {', '.join(presets())})"


def test_the_presets_of_rivals_are_as_published():
    intergen, timotion = load("intergen"), load("timotion")
    for values in (intergen, timotion):
        training = values.train.denoiser
        assert (training.epochs, training.warmup_epochs, training.learning_rate) == (2000, 10, 1e-4)
        assert (training.weight_decay, training.clip_norm) == (2e-5, 0.5)
        assert training.loss.up_to == 0.7
        assert training.loss.weights(values.network) == {
            "velocity": 30.0,
            "foot_contact": 30.0,
            "bone_length": 10.0,
            "distance_map": 3.0,
            "affinity": 3.0,
            "orientation": 0.01,
        }
        assert values.diffusion == load("interhuman").diffusion
        assert (values.moe.selection, values.moe.hidden) == ("dense", 2048)
    sizes = {v.network: (v.denoiser.width, v.denoiser.layers, v.denoiser.heads) for v in (intergen, timotion)}
    assert sizes == {"intergen": (1024, 8, 8), "timotion": (512, 5, 16)}
    assert (intergen.train.denoiser.batch_size, timotion.train.denoiser.batch_size) == (32, 256)
    assert timotion.timotion.local_patterns


@pytest.mark.parametrize("name", ["none.yaml", "none.yml", "folder.yaml"])
def test_a_missing_file_is_told(tmp_path, name):
    (tmp_path / "folder.yaml").mkdir()
    assert refused(tmp_path / name) == f"{tmp_path / name}: no such file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no keys"),
        (b"- 3", "holds no keys"),
        (b"name: x", "key 'train' is missing"),
        (b"name: x\ntrain: 3", "train = 3 (allowed: keys below it: vae, denoiser, evaluator)"),
    ],
)
def test_a_broken_file_is_told(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: {message}")


def test_a_file_that_may_not_be_read_is_told(file, monkeypatch):
    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refused(file) == f"{file}: cannot be read: Permission denied"


def test_overriding_leaves_what_it_is_given_as_it_is():
    stored = load("duet").model_dump(mode="json")
    overrides = {"moe": {"experts": 8}, "train.vae.loss.kl": 0.5}
    before = deepcopy((stored, overrides))
    changed = overridden(stored, overrides, where="model")
    assert (changed.moe.experts, changed.train.vae.loss.kl) == (8, 0.5)
    assert (stored, overrides) == before


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipelines.train.train", "pipelines.tracking.runs", "pipelines.cluster.session"])
def test_the_environment_of_ray_and_mlflow_is_set_whichever_module_comes_first(module):
    names = ("RAY_USAGE_STATS_ENABLED", "TUNE_DISABLE_SIGINT_HANDLER", "MLFLOW_DISABLE_TELEMETRY", "KINETO_LOG_LEVEL")
    # What these libraries read when they are imported must be there by then.
    watch = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("ray", "mlflow"):
            print(name, all(key in os.environ for key in {names}))
sys.meta_path.insert(0, Watch())
import {module}
"""
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run([sys.executable, "-c", watch], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()
    assert all(line.endswith(" True") for line in done.stdout.splitlines())


@pytest.mark.parametrize("word", [b"\xcb=1", b"name=\xcb"])
def test_an_override_that_is_not_utf8_is_told(file, word):
    text = os.fsdecode(word)
    assert refused(file, text) == f"{text!r} is not an override (allowed: text in UTF-8)"
