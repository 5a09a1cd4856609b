"""Every command of the README runs as it stands there, but for less data and fewer steps."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from interx_files import ProcessedFolder, standing_pose, write_body_model
from published_files import JUDGE_WORDS, SMALL_WORDS, evaluator_file, small_files, write_stats
from published_t2m import WORDS as T2M_WORDS
from published_t2m import write_t2m
from word_files import write_word_files

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet import make_interaction, write_duet
from intermoe.datasets.smplx_body import average_joints
from intermoe.datasets.solo import write_solo
from intermoe.motion import Motion
from pipelines.cli import main
from pipelines.sweep.file import load as load_sweep

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(bash|python|yaml)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
# Jobs: tests/pipelines/cluster/test_jobs_on_two_nodes.py runs them.
_JOBS = ("intermoe submit ", "intermoe jobs")
INTERMOE = [line for line in COMMANDS if line.startswith("intermoe ") and not line.startswith(_JOBS)]

# What makes a command small; the rest of it is the README's.
SMALLER = {
    "preprocess duet": ["--count", "24"],
    "preprocess solo": ["--count", "24"],
    "train vae": ["train.vae.epochs=0.2"],
    "train evaluator": ["train.evaluator.epochs=2", "train.evaluator.batch_size=8"],
    "evaluate --check-recorded": ["evaluation.replications=2", "evaluation.pool=2"],
    "evaluate --model": ["evaluation.replications=2", "evaluation.pool=2"],
    "import published": SMALL_WORDS,
    "bench moe": ["--samples", "2", "--repeats", "1"],
    "bench step": ["--samples", "1", "--repeats", "1", "denoiser.layers=1"],
    "bench evaluate": ["--samples", "1", "--repeats", "1", "diffusion.sampler_steps=2"],
    "bench sampling": ["--samples", "1", "--repeats", "1", "evaluation.replications=1", "evaluation.pool=2"],
    "train denoiser": ["train.denoiser.epochs=2", "train.denoiser.batch_size=8"],
}


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert wanted == ["demo", "test-all"]
    assert set(wanted) <= set(targets)
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("make test-all")


def test_the_picture_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert all((ROOT / picture).read_bytes()[:4] == b"\x89PNG" for picture in pictures)


def test_the_sweep_file_is_one(tmp_path: Path) -> None:
    (text,) = (block for kind, block in BLOCKS if kind == "yaml")
    (tmp_path / "sweep.yaml").write_text(text)
    found = load_sweep(tmp_path / "sweep.yaml")
    assert len(found.trials) == 12
    assert {(trial.settings.moe.experts, trial.settings.moe.c_exp, trial.seed) for trial in found.trials} == {
        (experts, c_exp, seed) for experts in (4, 8) for c_exp in (1, 2) for seed in (0, 1, 2)
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with one Ray for all of them."""
    monkeypatch.chdir(tmp_path)
    assert [" ".join(line.split()[1:3]) for line in INTERMOE if "generate" not in line] == [
        "preprocess duet",
        "preprocess interhuman",
        "preprocess interx",
        "preprocess bvh",
        "preprocess solo",
        "preprocess humanml3d",
        "describe --config",
        "train vae",
        "train denoiser",
        "train denoiser",
        "train denoiser",
        "train evaluator",
        "evaluate --model",
        "sync runs/denoiser",
        "verify data/duet",
        'figure "The',
        "train evaluator",
        "evaluate --check-recorded",
        "evaluate --model",
        "sweep sweeps/improvements.yaml",
        "register runs/denoiser",
        "import published",
        "import published",
        "import published",
        "bench moe",
        "bench step",
        "bench evaluate",
        "bench sampling",
        "sweep sweeps/ablations.yaml",
        "sweep sweeps/ablations.yaml",
        "report runs/ablations-duet",
        "sweep sweeps/table1.yaml",
        "sweep sweeps/table6.yaml",
    ]
    write_duet(tmp_path / "InterHuman", count=12, seed=1)
    write_solo(tmp_path / "HumanML3D", count=6, seed=1)
    interx = ProcessedFolder(tmp_path / "Inter-X/processed_data")
    interx.add("G001T000A000R000", *standing_pose(40))
    write_body_model(tmp_path / "SMPLX_NEUTRAL.npz", average_joints().double().numpy())
    archive = ROOT.parent / "shared" / "data" / "cmu_salsa.zip"
    if archive.is_file():
        with zipfile.ZipFile(archive) as file:
            file.extractall(tmp_path)
    small_files(tmp_path)
    write_stats(tmp_path / "data")
    evaluator_file(tmp_path / "interclip.ckpt")
    (tmp_path / "meta").mkdir()
    write_t2m(tmp_path / "meta")
    (tmp_path / "meta/finest.tar").rename(tmp_path / "finest.tar")
    write_word_files(tmp_path / "glove", width=5)
    duet = make_interaction(seed=0, index=1)
    one, _ = Motion(duet.position_TPJ3, duet.rotation_TPR6, 30, "Two people bow.", SMPL22).save(tmp_path / "given.bvh")
    Path(str(one)).rename(tmp_path / "person.bvh")
    for line in INTERMOE:
        words = shlex.split(line)
        verb = " ".join(words[1:3])
        if words[1] in ("sweep", "report"):
            # For an hour's work: tests/pipelines/sweep/test_sweep.py runs both commands on sweeps/smoke.yaml.
            if "--dry-run" in words:
                assert main([str(ROOT / word) if word.startswith("sweeps/") else word for word in words[1:]]) == 0
            continue
        if verb == "preprocess bvh" and not archive.is_file():
            continue  # tests/intermoe/datasets/test_bvh_reader.py reads BVH of its own; this one needs ../shared
        smaller = SMALLER.get(verb, [])
        if "--evaluator interclip" in line:
            smaller = [*JUDGE_WORDS, "evaluator.vocabulary=11"]
        if "--evaluator finest" in line:
            smaller = T2M_WORDS
        assert main([*words[1:], *smaller]) == 0, line
    assert (tmp_path / "runs/evaluation/results.html").is_file()
    suffixes = {".npz", ".bvh", ".glb", ".mp4", ".png"}
    assert {path.suffix for path in (tmp_path / "motions").iterdir()} == suffixes | {".html"}
    assert {path.suffix for path in (tmp_path / "solo").iterdir()} == suffixes
    for folder in ("given", "longer", "row"):
        assert {path.suffix for path in (tmp_path / folder).iterdir()} == suffixes
    assert (tmp_path / "figure.png").is_file()
    # The other block of Python trains: tests/pipelines/test_notebook.py runs it.
    python, of_given = (block for kind, block in BLOCKS if kind == "python" and "InterMoE.load" in block)
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=600)
    assert "(120, 2, 22, 3)" in done.stdout, done.stderr
    assert (tmp_path / "bow_person2.bvh").is_file()
    assert (tmp_path / "bow.glb").is_file()
    assert (tmp_path / "bow.mp4").is_file()
    assert (tmp_path / "bow.html").is_file()
    done = subprocess.run([sys.executable, "-c", of_given], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path)
