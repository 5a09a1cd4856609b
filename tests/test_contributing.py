"""CONTRIBUTING.md and docs/architecture.md: examples that work, paths that exist, walks that are those of the code."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE, PAGE = ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
PARADIGM, ENTRY, WORD, MEASURE = EXAMPLES

ROUTES = """
import torch
from intermoe.moe.block import MoeBlock
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import update_biases
from pipelines import settings

assert settings.load("duet", {"moe.selection": "all"}).moe.selection == "all"
block = MoeBlock(MoeConfig(selection="all", experts=3, hidden=8), 8).train()
x, emb = torch.randn(2, 2, 4, 8), torch.randn(2, 8)
block(x, emb, emb, TokenPool.of(torch.ones(2, 4, dtype=torch.bool), num_persons=2))
update_biases(block)
print(block.selection.pop_routing().load_E)
"""

EVALUATES = """
import sys
from pathlib import Path
from small_model import save_model, small_evaluator, small_model
from toy_shards import write_shards
from intermoe.data.shards import DatasetFolder
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.evaluation.runner import EvaluationSpec, JobRunner, read_parts
from intermoe.evaluation.scoring import score
from pipelines.evaluate.results import Results, terminal_table
from rich.console import Console

root = Path(sys.argv[1])
model = small_model(data={"max_frames": 40})
write_shards(root / "data", {"test": 4})
few = {"replications": 1, "pool": 4, "multimodality": {"captions": 0}}
spec = EvaluationSpec(
    model=str(save_model(root / "model", model)),
    evaluator=str(save_model(root / "evaluator", small_evaluator(model))),
    dataset=str(root / "data"),
    split="test",
    config=EvaluationConfig.parse(few),
    rows=("recorded", "generated"),
    seed=0,
    diffusion=model.config.diffusion,
    text_folder=None,
    threads=1,
    model_seed=0,
)
(root / "parts").mkdir()
runner = JobRunner(spec, root / "parts")
for job in runner.jobs:
    runner.run(job)
parts = read_parts(runner.parts, runner.jobs)
frame = score(DatasetFolder.open(spec.dataset), spec.config, runner.jobs, parts, seed=0, split="test")
Console(width=120).print(terminal_table(Results(frame, {})))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of both packages to change."""
    for name in ("intermoe", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


def run(copy: Path, code: str) -> str:
    (copy / "work").mkdir()
    path = {"PYTHONPATH": f"{copy}:{ROOT / 'tests/support'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, str(copy / "work")]
    ran = subprocess.run(words, cwd=copy, env=path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_paradigm_is_a_class_an_entry_and_a_word(copy: Path) -> None:
    paradigms = copy / "intermoe/moe/paradigms.py"
    change(paradigms, "\n\nPARADIGMS: ", f"\n\n{PARADIGM}\n\nPARADIGMS: ")
    last = '        "uniform": UniformAssignment,\n'
    change(paradigms, last, last + ENTRY)
    (line,) = [
        line
        for line in (copy / "intermoe/moe/config.py").read_text().splitlines()
        if line.startswith("    selection: ")
    ]
    change(copy / "intermoe/moe/config.py", f"{line}\n", WORD)
    assert run(copy, ROUTES) == "[1.0, 1.0, 1.0]\n"


@pytest.mark.slow
def test_a_measure_is_one_entry_in_one_file(copy: Path) -> None:
    measures = copy / "intermoe/evaluation/measures.py"
    head, entries = measures.read_text("utf-8").split("MEASURES: ", 1)
    end = "        )\n    }\n)"
    assert end in entries
    measures.write_text(f"{head}MEASURES: {entries.replace(end, MEASURE + end, 1)}", "utf-8")
    (line,) = [line for line in run(copy, EVALUATES).splitlines() if "Distance" in line]
    heading, *cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert heading == "Distance, m →"
    assert len(cells) == 2
    recorded, generated = map(float, cells)
    assert 0.3 < recorded < 5
    assert generated > 0


@pytest.mark.parametrize("document", [GUIDE, PAGE, ROOT / "README.md"], ids=lambda document: document.name)
def test_the_paths_that_are_named_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    paths = re.findall(r"`((?:intermoe|pipelines|tests|sweeps|docs)/[\w/.]*)`", text)
    paths += [
        str(Path(document.parent, link).relative_to(ROOT))
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", text)
        if ".." not in link
    ]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_walks_are_those_of_the_code() -> None:
    """Each step names a file and what is defined there, and in the walk of a sweep point the steps call each other."""
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`: `(\w+)`", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(steps) > 15
    defined = {(file, name): _definition(ROOT / file, name) for file, name in steps}
    walk = [step for step in steps if step[0].startswith("pipelines/")]
    walk = walk[walk.index(("pipelines/cli.py", "_sweep")) :]
    assert [name for _, name in walk] == [
        "_sweep", "load", "SweepRequest", "sweep", "make_shared", "run_trial", "train_to_the_end", "train", "evaluate",
        "report",
    ]  # fmt: skip
    callers = {"load": "_sweep", "SweepRequest": "_sweep", "sweep": "_sweep", "report": "_sweep"}
    callers |= {"make_shared": "sweep", "train_to_the_end": "run_trial", "train": "train_to_the_end"}
    callers |= {"evaluate": "run_trial"}
    called = {name: _called(defined[file, name]) for file, name in walk}
    for name, caller in callers.items():
        assert {name, f"{name}_sweep"} & called[caller], (caller, name)
    # Ray Tune runs it: what the driver hands over names it.
    assert "run_trial" in _called(_definition(ROOT / "pipelines/sweep/sweep.py", "_trainable"))


def _called(definition: ast.AST) -> set[str]:
    """The names that are called in a definition."""
    calls = [node.func for node in ast.walk(definition) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}


def _definition(file: Path, name: str) -> ast.AST:
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    found = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
    assert found, (file, name)
    return found[0]
