"""README's training in a notebook: the lines as they stand there, where neither Ray nor MLflow can be imported."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from pipelines import settings
from pipelines.settings import Settings

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
BEFORE = 'import sys\nsys.modules |= dict.fromkeys(["ray", "mlflow", "pipelines"])\n'
AFTER = "print(training.model_dump_json())\n"
LINE = re.compile(r"(\d+) (\d+\.\d+)")


@dataclass(frozen=True)
class Notebook:
    """What the lines left behind: their folder, the losses that they printed by step, how they trained."""

    folder: Path
    losses: dict[int, float]
    training: dict[str, Any]


@pytest.fixture(scope="module")
def notebook(run_workers, tiny, shards, tmp_path_factory) -> Notebook:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "data").mkdir()
    (folder / "data/duet").symlink_to(shards)
    run_workers("vae", tiny("vae", 3, "data.max_frames=152"), folder / "runs/vae")
    (lines,) = re.findall(r"## Train in a notebook\n.*?```python\n(.*?)```", README.read_text(), re.DOTALL)
    command = [sys.executable, "-c", BEFORE + lines + AFTER]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    *printed, training = ran.stdout.splitlines()
    pairs = [LINE.fullmatch(line).groups() for line in printed]
    return Notebook(folder, {int(step): float(loss) for step, loss in pairs}, json.loads(training))


def test_the_lines_train_as_the_preset_does(notebook):
    preset = settings.load("duet").train.denoiser.model_dump(mode="json")
    often = {"log_every", "validate_every", "checkpoint_every", "checkpoint_minutes", "keep"}
    assert {k: v for k, v in notebook.training.items() if k not in often} == {
        k: v for k, v in preset.items() if k not in often
    }


def test_the_lines_train_and_generate(notebook):
    assert list(notebook.losses) == list(range(65))
    losses = list(notebook.losses.values())
    assert sum(losses[-9:]) < 0.95 * sum(losses[:9])
    with av.open(notebook.folder / "bow.mp4") as video:
        assert video.streams.video[0].frames == 120


def test_each_step_has_the_loss_that_the_pipeline_logs(notebook, run_workers, tiny):
    values = tiny("denoiser", 1, "data.max_frames=152").model_dump(mode="json")
    values["train"]["denoiser"] = notebook.training | {"log_every": 1}
    folder = notebook.folder / "runs"
    history = run_workers("denoiser", Settings.parse(values), folder / "denoiser", vae=folder / "vae")
    logged = {step - 1: loss for step, loss in history("loss/train")}
    assert logged == pytest.approx(notebook.losses, rel=1e-6)
