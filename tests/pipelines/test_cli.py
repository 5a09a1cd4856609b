import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from toy_shards import change_card, write_shards

from intermoe import checkpoint
from intermoe.evaluation.evaluator import Evaluator
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS
from intermoe.motion import Motion
from pipelines import settings
from pipelines.cli import _DEPENDENCIES, _PIPELINES_EXTRA, main
from pipelines.grammar import parse, parser

TINY = """
data.max_frames=130 vae.width=8 vae.latent=4 vae.blocks=1 denoiser.width=16 denoiser.layers=1 denoiser.heads=2
denoiser.text_layers=1 denoiser.text_hidden=16 denoiser.text_heads=2 moe.experts=2 moe.hidden=16
diffusion.sampler_steps=2
"""
COMMANDS = {
    "demo": ("--out",),
    "preprocess": (
        "{duet,interhuman,interx,bvh,solo,humanml3d}",
        "--root",
        "--out",
        "--encoder",
        "--text-folder",
        "--mapping",
        "--scale",
        "--count",
        "--seed",
        "--layout",
    ),
    "import": (
        "{published}",
        "--config",
        "--denoiser",
        "--vae",
        "--stats",
        "--evaluator",
        "--word-vectors",
        "--out",
        "key=value",
    ),
    "train": (
        "{vae,evaluator,denoiser}",
        "--config",
        "--data",
        "--vae",
        "--text-folder",
        "--word-vectors",
        "--out",
        "--resume",
        "key=value",
    ),
    "generate": (
        "PROMPT",
        "--model",
        "--out",
        "--seconds",
        "--seed",
        "--guidance",
        "--sampler",
        "--steps",
        "--text-folder",
        "--routing-map",
        "--page",
    ),
    "figure": (
        "PROMPT",
        "--model",
        "--headings",
        "--out",
        "--frames",
        "--seconds",
        "--seed",
        "--guidance",
        "--text-folder",
        "--device",
    ),
    "evaluate": (
        "--model",
        "--data",
        "--evaluator",
        "--out",
        "--check-recorded",
        "--split",
        "--no-untrained",
        "--seed",
        "--guidance",
        "--text-folder",
        "key=value",
    ),
    "sweep": ("file", "--out", "--resume", "--dry-run", "key=value"),
    "report": ("SWEEP", "--out", "--gallery"),
    "verify": ("FOLDER",),
    "describe": ("--config", "--json", "key=value"),
    "bench": (
        "{moe,step,sampling,feed,evaluate}",
        *("--config", "--samples", "--repeats", "--threads", "--json", "--model", "--data", "--evaluator", "key=value"),
    ),
    "submit": ("--address", "--detach", "-- COMMAND"),
    "register": ("RUN", "--alias", "--name"),
    "jobs": ("--address",),
    "logs": ("ID", "--follow", "--address"),
    "stop": ("ID", "--address"),
    "sync": ("FOLDER",),
    "ui": ("--port",),
}


@pytest.fixture(autouse=True)
def no_ray_and_a_folder_of_its_own(monkeypatch, tmp_path):
    """What is refused is refused before Ray is started, and leaves nothing behind."""

    def start(*_args, **_kwargs):
        pytest.fail("Ray is started")

    monkeypatch.setattr("pipelines.cluster.session.ray_session", start)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("pipelines.tracking.runs.Run.start", lambda *_: pytest.fail("a run is opened"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def refused(capsys):
    """A function that runs a command which must end with one line on stderr and exit status 2, and gives the line."""

    def refused(*words: object) -> str:
        before = sorted(Path().rglob("*"))
        assert main([str(word) for word in words]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert printed.err.endswith("\n")
        assert sorted(Path().rglob("*")) == before, "nothing is left behind"
        return printed.err.removeprefix("error: ").rstrip("\n")

    return refused


@pytest.fixture
def tiny() -> settings.Settings:
    return settings.load("duet", settings.parse_overrides(TINY.split()))


PARTS = (*VAE_PARTS, "text_head", "denoiser")


@pytest.fixture
def saved(tiny, tmp_path):
    def saved(name: str, parts: tuple[str, ...] = PARTS) -> Path:
        model = InterMoE(tiny)
        tensors = {part: model.parts()[part].state_dict() for part in parts}
        documents = {"config": tiny.model_dump(mode="json"), "state": {"step": 1}}
        checkpoint.save(tmp_path / name / "best", tensors=tensors, documents=documents)
        return tmp_path / name

    return saved


@pytest.fixture
def shards(tmp_path) -> Path:
    """A data set."""
    write_shards(tmp_path / "shards", {"train": 3, "val": 1, "test": 1})
    return tmp_path / "shards"


def test_every_command_is_in_the_list_above():
    (verbs,) = (action for action in parser()._actions if action.dest == "verb")
    assert set(verbs.choices or ()) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_exits_with_0(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for option in COMMANDS[command]:
        assert option in printed.out


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


def test_files_that_nobody_installed_have_a_command_line_too(capsys, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipelines.grammar.version", version)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "intermoe (not installed)\n"


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"intermoe {version('intermoe')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "intermoe: the following arguments are required: COMMAND (allowed: see `intermoe --help`)"),
        (
            "trian",
            (
                "intermoe: argument COMMAND: invalid choice: 'trian' (choose from 'demo', 'preprocess', 'import', "
                "'train', 'generate', 'figure', 'evaluate', 'sweep', 'report', 'verify', 'describe', 'bench', "
                "'submit', 'jobs', 'logs', 'stop', 'register', 'sync', 'ui') (allowed: see `intermoe --help`)"
            ),
        ),
        (
            "train",
            (
                "intermoe train: the following arguments are required: target, --config, --data (allowed: see "
                "`intermoe train --help`)"
            ),
        ),
        (
            "train evaluatr --config duet --data x",
            (
                "intermoe train: argument target: invalid choice: 'evaluatr' (choose from 'vae', 'evaluator', "
                "'denoiser') (allowed: see `intermoe train --help`)"
            ),
        ),
        (
            "train vae --config duet",
            ("intermoe train: the following arguments are required: --data (allowed: see `intermoe train --help`)"),
        ),
        (
            "train vae --data x",
            ("intermoe train: the following arguments are required: --config (allowed: see `intermoe train --help`)"),
        ),
        (
            "train vae --config duet --data",
            ("intermoe train: argument --data: expected one argument (allowed: see `intermoe train --help`)"),
        ),
        (
            "train vae --config duet --data x --worker 2",
            ("intermoe train: unknown: --worker 2 (allowed: see `intermoe train --help`)"),
        ),
        (
            "evaluate --data x",
            (
                "intermoe evaluate: the following arguments are required: --model, --out (allowed: see `intermoe "
                "evaluate --help`)"
            ),
        ),
        (
            "evaluate --check-recorded --data x",
            (
                "intermoe evaluate --check-recorded: the following arguments are required: --evaluator (allowed: see "
                "`intermoe evaluate --help`)"
            ),
        ),
        (
            "evaluate --check-recorded --data x --evaluator e --model m",
            "intermoe evaluate --check-recorded: --model is nothing to recorded motion (allowed: leave it out)",
        ),
        (
            "evaluate --check-recorded --data x --evaluator e --guidance 0",
            "intermoe evaluate --check-recorded: --guidance is nothing to recorded motion (allowed: leave it out)",
        ),
        (
            "evaluate --check-recorded --data x --evaluator e --no-untrained",
            "intermoe evaluate --check-recorded: --no-untrained is nothing to recorded motion (allowed: leave it out)",
        ),
        (
            "describe --config duet --jsn",
            ("intermoe describe: unknown: --jsn (allowed: see `intermoe describe --help`)"),
        ),
        (
            "describe --json",
            (
                "intermoe describe: the following arguments are required: --config (allowed: see `intermoe describe "
                "--help`)"
            ),
        ),
        (
            "describe --config duett",
            (
                "unknown preset 'duett' (allowed: duet, intergen, interhuman, interhuman-plus, interx, mdm, mld, "
                "salad, solo, timotion, or a "
                ".yaml file)"
            ),
        ),
        ("describe --config none.yaml", "none.yaml: no such file"),
        (
            "describe --config duet moe.expert=3",
            (
                "duet: unknown key 'moe.expert' (allowed: experts, c_exp, hidden, selection, router, pool, alpha, "
                "sigma, load_momentum, bias_init, timestep_in_router; did you mean 'moe.experts'?)"
            ),
        ),
        ("describe --config duet moe.experts=no", "duet: moe.experts = False (allowed: greater than or equal to 1)"),
        ("describe --config duet moe.experts=-3", "duet: moe.experts = -3 (allowed: greater than or equal to 1)"),
        (
            "describe --config duet experts",
            ("'experts' is not an override (allowed: key=value, such as moe.experts=4)"),
        ),
        (
            "describe --config duet denoiser.text_heads=7",
            ("denoiser.text_heads = 7 (allowed: a divisor of 384, the encoder's width)"),
        ),
        (
            "train vae --config duet --data missing",
            ("HERE/missing: no such folder (allowed: a folder that `intermoe preprocess` wrote)"),
        ),
        (
            "train vae --config duet --data missing moe.expert=3",
            (
                "duet: unknown key 'moe.expert' (allowed: experts, c_exp, hidden, selection, router, pool, alpha, "
                "sigma, load_momentum, bias_init, timestep_in_router; did you mean 'moe.experts'?)"
            ),
        ),
        (
            "train denoiser --config duet --data .",
            ("HERE: holds no dataset.json, so it is no data set; `intermoe preprocess` makes one"),
        ),
        (
            "train vae --config duet --data x workers.count=7",
            (
                "duet: train.vae.batch_size = 16 is not divided by workers.count x train.vae.accumulate = 7 x 1 "
                "(allowed: a multiple of 7)"
            ),
        ),
        (
            "generate --model m --out o",
            (
                "intermoe generate: the following arguments are required: PROMPT (allowed: see `intermoe generate "
                "--help`)"
            ),
        ),
        (
            "generate Bow --out o",
            (
                "intermoe generate: the following arguments are required: --model (allowed: see `intermoe generate "
                "--help`)"
            ),
        ),
        ("generate Bow --model missing --out o", "missing: no such folder (allowed: a checkpoint folder)"),
        ("generate Bow --model . --out o", ".: has no manifest.json: not a checkpoint"),
        (
            "generate Bow --model m --out o --seconds long",
            ("intermoe generate: argument --seconds: 'long' is not a number (allowed: see `intermoe generate --help`)"),
        ),
        (
            "generate Bow --model m --out o --seed 1.5",
            (
                "intermoe generate: argument --seed: '1.5' is not a whole number (allowed: see `intermoe generate "
                "--help`)"
            ),
        ),
        (
            "preprocess",
            (
                "intermoe preprocess: the following arguments are required: format, --out (allowed: see `intermoe "
                "preprocess --help`)"
            ),
        ),
        (
            "preprocess motionx --out o",
            (
                "intermoe preprocess: argument format: invalid choice: 'motionx' (choose from 'duet', 'interhuman', "
                "'interx', 'bvh', 'solo', 'humanml3d') (allowed: see `intermoe preprocess --help`)"
            ),
        ),
        (
            "preprocess duet --out o --encoder bert",
            (
                "intermoe preprocess: argument --encoder: invalid choice: 'bert' (choose from 'minilm', 'clip') "
                "(allowed: see `intermoe preprocess --help`)"
            ),
        ),
        (
            "preprocess duet --out o --layout bvh",
            (
                "intermoe preprocess: argument --layout: invalid choice: 'bvh' (choose from 'interhuman', 'interx') "
                "(allowed: see `intermoe preprocess --help`)"
            ),
        ),
        (
            "preprocess interhuman --out o",
            ("interhuman: the folder of the recordings is not given (allowed: --root DIR)"),
        ),
        (
            "preprocess interhuman --root missing --out o",
            (
                "HERE/missing: there is no such folder (allowed: a data set in InterHuman's layout, with "
                "motions_processed/person1, motions_processed/person2, annots, split)"
            ),
        ),
        ("preprocess bvh --root missing --out o", "HERE/missing: no such folder"),
        (
            "preprocess bvh --root . --out o",
            ("HERE/pairs.csv: no such file (allowed: a table with the columns id, person1, person2, split, captions)"),
        ),
        (
            "preprocess bvh --root . --out o --mapping kit",
            (
                "unknown mapping 'kit' (allowed: bandai_namco, cmu, cmu_motionbuilder, lafan1, mixamo, rokoko, smpl, "
                "or the path of a .yaml file)"
            ),
        ),
        ("preprocess bvh --root . --out o --scale 0", "scale = 0.0 (allowed: greater than 0)"),
        ("preprocess duet --out o --count 0", "count = 0 (allowed: greater than or equal to 1)"),
        ("preprocess duet --out o --seed -1", "seed = -1 (allowed: greater than or equal to 0)"),
        (
            "ui --port 99999",
            ("intermoe ui: argument --port: 99999 is not a port, 1 to 65535 (allowed: see `intermoe ui --help`)"),
        ),
        (
            "ui --port x",
            ("intermoe ui: argument --port: 'x' is not a whole number (allowed: see `intermoe ui --help`)"),
        ),
        (
            "bench moe --samples x",
            ("intermoe bench: argument --samples: 'x' is not a whole number (allowed: see `intermoe bench --help`)"),
        ),
        (
            "bench moe --samples 0",
            ("intermoe bench: argument --samples: 0 is not a count, 1 or more (allowed: see `intermoe bench --help`)"),
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(refused, words, message):
    assert refused(*words.split()) == message.replace("HERE", str(Path.cwd()))


@pytest.mark.parametrize("command", ["demo", "preprocess duet"])
def test_a_folder_that_is_taken_is_left_as_it_is(refused, tmp_path, command):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    assert "exists" in refused(*command.split(), "--out", taken)
    assert "exists" in refused(*command.split(), "--out", taken / "file")
    assert [file.name for file in taken.iterdir()] == ["file"]
    assert (taken / "file").read_text() == "mine"


def test_training_is_checked_before_ray_is_started(refused, saved, shards, tmp_path):
    vae, other, taken = saved("vae", VAE_PARTS), saved("other", VAE_PARTS), tmp_path / "vae"
    tiny = ["--config", "duet", "--data", shards, *TINY.split()]
    assert f"{taken}: exists already and is not overwritten (allowed: a new or an empty folder, or --resume" in refused(
        "train", "vae", *tiny, "--out", taken
    )
    assert "holds no run to resume" in refused("train", "vae", *tiny, "--out", tmp_path / "none", "--resume")
    assert "the denoiser needs a trained VAE (allowed: a run of `intermoe train vae`)" in refused(
        "train", "denoiser", *tiny
    )
    assert "no such folder" in refused("train", "denoiser", *tiny, "--vae", tmp_path / "none")
    wider = refused("train", "denoiser", *tiny, "vae.width=16", "--vae", vae)
    assert "vae.width of the VAE is 8 (allowed: 16, as in the config)" in wider
    weights = other / "best" / "vae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "vae.safetensors does not match its checksum" in refused("train", "denoiser", *tiny, "--vae", other)
    tensors = {part: {"w": torch.ones(1)} for part in VAE_PARTS}
    checkpoint.save(tmp_path / "bare", tensors=tensors, documents={"state": {"step": 1}})
    assert refused("train", "denoiser", *tiny, "--vae", tmp_path / "bare") == (
        f"{tmp_path}/bare: has no config (allowed: a run of `intermoe train vae`)"
    )
    clip = refused("train", "vae", *tiny, "data.encoder=clip")
    assert "data.encoder of the data set is 'minilm' (allowed: 'clip', as in the config)" in clip
    change_card(shards, names_persons=False)
    assert refused("train", "denoiser", *tiny, "--vae", vae, "data.persons=named") == (
        f"{shards}: data.persons is 'named', but the first person of its captions may be either of the two "
        "(allowed: data.persons=drawn)"
    )


def test_generating_goes_from_prompts_to_files(saved, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.generate.SUFFIXES", (".npz", ".bvh"))  # drawing takes longer than all the rest
    model = saved("denoiser")
    words = ["--model", str(model), "Two people bow.", "--out", str(tmp_path / "out"), "--seconds", "0.5", "Hug."]
    assert main(["generate", *words, "--seed", "4", "--amass", "--clips"]) == 0
    files = [Path(line) for line in capsys.readouterr().out.split()]
    assert [file.name for file in files if "hug" in file.name] == [
        f"01_hug{ending}"
        for ending in (".npz", "_person1.bvh", "_person2.bvh", "_person1.amass.npz", "_person2.amass.npz")
    ]
    assert (len(files), files[-1].name) == (11, "clips.glb")
    assert set(files) == set((tmp_path / "out").iterdir())
    motion = Motion.load(tmp_path / "out" / "01_hug.npz")
    assert (len(motion.joints), motion.caption) == (15, "Hug.")


def test_generating_tells_mistakes_in_one_line(refused, saved, tmp_path):
    model, vae = saved("denoiser"), saved("vae", VAE_PARTS)
    out = tmp_path / "out"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "00_bow.npz").touch()
    for words, message in (
        (["", "--model", model], "a prompt is empty (allowed: a sentence)"),
        (["Bow.", "--model", vae], "holds no text_head and no denoiser (allowed: a run of `train denoiser`)"),
        (["Bow.", "--model", model, "--seconds", "9"], "9 seconds are 270 frames (allowed: 0.5 to 4.333;"),
        (["Bow.", "--model", model, "--seconds", "nan"], "seconds: nan seconds"),
        (["Bow.", "--model", model, "--seconds", "0"], "seconds: 0 seconds are 0 frames"),
        (["Bow.", "--model", model, "--seed", "-1"], "seed -1 (allowed: 0 or more)"),
        (["Bow.", "--model", model, "--guidance", "inf"], "guidance inf (allowed: a finite number)"),
        (["Bow.", "--model", model, "--text-folder", tmp_path], "minilm comes with its package"),
        (["Bow.", "--model", model, "--out", tmp_path / "taken"], "00_bow.npz: exists already and is not overwritten"),
        (["Bow.", "--model", model, "--out", model / "best" / "config.json"], "config.json: is not a folder"),
    ):
        assert message in refused("generate", "--out", out, *words)
        assert not out.exists()


def test_words_may_stand_anywhere_among_the_options():
    words = ["train", "vae", "seed=1", "--config", "duet", "moe.experts=2", "--data", "d", "workers.count=2"]
    options = parse(words)
    assert options.overrides == ["seed=1", "moe.experts=2", "workers.count=2"]
    assert (options.target, options.config, options.data, options.resume) == ("vae", "duet", Path("d"), False)
    assert parse(["describe", "--config", "duet"]).overrides == []
    assert parse(["generate", "a b", "--model", "m", "--out", "o", "c"]).prompts == ["a b", "c"]


def test_interruption_says_what_to_do_next_and_exits_with_130(monkeypatch, capsys):
    def interrupt(_settings):
        raise KeyboardInterrupt("`--resume` goes on from step 7")

    monkeypatch.setattr("pipelines.describe.describe", interrupt)
    assert main(["describe", "--config", "duet"]) == 130
    assert capsys.readouterr().err == "interrupted: `--resume` goes on from step 7\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        ("train --help", 0, ""),
        ("describe --config duet moe.expert=3", 2, "error: duet: unknown key 'moe.expert'"),
    ],
)
def test_as_a_command_of_the_shell(words, status, error, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words.split()],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.returncode == status
    assert ran.stderr.startswith(error)
    assert ran.stderr.count("\n") == (1 if error else 0)
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("ray", ["train", "vae", "--config", "duet", "--data", "shards"]),
        ("ray", ["generate", "Two people bow.", "--model", "runs/denoiser", "--out", "motions"]),
        ("mlflow", ["ui"]),
        ("rich", ["bench", "moe"]),
        ("ray", ["jobs"]),
        ("torch", ["describe", "--config", "duet"]),
        ("pydantic", ["describe", "--config", "duet"]),
    ],
)
def test_without_a_package_a_command_says_what_to_install(package, words):
    lines = "import sys; sys.modules[sys.argv[1]] = None; from pipelines.cli import main; sys.exit(main(sys.argv[2:]))"
    command = [sys.executable, "-c", lines, package, *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"error: this command needs {package}, which is not installed for {sys.executable}: "
        "pip install 'intermoe[pipelines]'\n"
    )


def test_a_python_without_any_package_is_one_line():
    command = [sys.executable, "-S", "-m", "pipelines.cli", "describe", "--config", "duet"]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"error: this command needs typing_extensions, which is not installed for {sys.executable}: "
        "pip install 'intermoe[pipelines]'\n"
    )


def test_a_module_that_is_missing_by_our_own_fault_is_not_explained_away(monkeypatch):
    monkeypatch.setitem(sys.modules, "pipelines.describe", None)
    with pytest.raises(ModuleNotFoundError, match=r"pipelines\.describe"):
        main(["describe", "--config", "duet"])


def test_the_packages_are_what_the_project_says():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"]["pipelines"]
    assert tuple(re.split(r"\W", line)[0] for line in requirements) == _PIPELINES_EXTRA
    names = {"pillow": "PIL", "pyyaml": "yaml", "universal-pathlib": "upath"}
    needed = [re.split(r"[><=\[]", line)[0] for line in project["dependencies"]]
    assert tuple(names.get(name, name.replace("-", "_")) for name in needed) == _DEPENDENCIES


def test_evaluate_is_refused_in_one_line(refused, saved, shards, tiny, tmp_path):
    model = saved("model")
    assert "no such folder" in refused("evaluate", "--model", "nowhere", "--out", "o")
    assert "holds no text_head" in refused("evaluate", "--model", saved("vae", VAE_PARTS), "--out", "o")
    assert "--data DIR" in refused("evaluate", "--model", model, "--out", "o")
    assert "runs/duet/evaluator: no such folder" in refused(
        "evaluate", "--model", model, "--data", shards, "--out", "o"
    )
    assert "holds no evaluator" in refused(
        "evaluate", "--model", model, "--data", shards, "--evaluator", model, "--out", "o"
    )
    evaluator = Evaluator(tiny.evaluator, tiny.data)
    checkpoint.save(
        tmp_path / "evaluator/best",
        tensors={"evaluator": evaluator.state_dict()},
        documents={"config": tiny.model_dump(mode="json")},
    )
    change_card(shards, names_persons=False)
    named = refused("evaluate", "--model", model, "--data", shards, "--evaluator", tmp_path / "evaluator", "--out", "o")
    assert named == (
        f"{shards}: data.persons is 'named', but the first person of its captions may be either of the two "
        "(allowed: data.persons=drawn)"
    )
    assert "belongs to the model" in refused("evaluate", "--model", model, "--out", "o", "moe.experts=3")
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert "exists already and is not overwritten" in refused("evaluate", "--model", model, "--out", "taken")


def test_sweeps_and_reports_are_refused_in_one_line(refused, capsys):
    smoke = Path(__file__).resolve().parents[2] / "sweeps" / "smoke.yaml"
    assert "no such file" in refused("sweep", "nowhere.yaml")
    assert "unknown profile 'huge'" in refused("sweep", smoke, "profile=huge")
    assert "unknown key 'moe.expert'" in refused("sweep", smoke, "moe.expert=3")
    assert "holds no sweep to resume" in refused("sweep", smoke, "--out", "o", "--resume")
    assert "holds no sweep" in refused("report", "nowhere")
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert "exists already and is not overwritten" in refused("sweep", smoke, "--out", "taken")
    assert main(["sweep", str(smoke), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "3 trials with profile tiny" in printed
    assert "c-exp-2-seed0" in printed


def test_sigterm_ends_a_command_as_ctrl_c_does_with_a_status_of_its_own(tmp_path, monkeypatch, capsys):
    def wait(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pipelines.verify.verify", wait)
    assert main(["verify", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before
