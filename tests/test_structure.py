"""What holds the house together, beside the import contracts of pyproject.toml, which `lint-imports` checks.

Each rule is a function from source text to what breaks it, tried here on made-up sources too.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).parents[1]
FOLDERS = [
    folder
    for floor in ("intermoe", "pipelines")
    for folder in sorted({file.parent for file in (ROOT / floor).rglob("*.py")})
]
SHAPED = re.compile(r"(?<![\w.])_?[a-z][a-z0-9_]*_([A-Za-z0-9]*[A-Z][A-Za-z0-9]*)\b")
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(["ray", "mlflow", "pipelines"])
import intermoe
for module in pkgutil.walk_packages(intermoe.__path__, "intermoe."):
    importlib.import_module(module.name)
    print(module.name)
"""


def modules_of(floor: str) -> list[str]:
    """The dotted name of each module below a top-level package."""
    files = sorted((ROOT / floor).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def networks(source: str) -> list[str]:
    """The classes of a file with ``Module`` among the bases that they name, by whatever name torch.nn goes there."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [c.name for c in classes if any(re.search(r"\bModule\b", ast.unparse(base)) for base in c.bases)]


def undefined_letters(source: str) -> dict[str, set[str]]:
    """The shape letters that the legend of a file's docstring does not define, each with the names that use it.

    A name's shape is what follows its last underscore, if it has a capital: ``x_BT3`` is [B, T, 3]. The legend goes
    from ``Legend:`` to the first full stop; its entries, between commas and semicolons, begin with their letters.
    """
    tree = ast.parse(source)
    legend = (ast.get_docstring(tree) or "").partition("Legend:")[2]
    entries = re.split(r"[,;]", re.split(r"\.(?:\s|$)", legend)[0])
    defined = {entry.split()[0] for entry in entries if entry.split()}
    undefined: dict[str, set[str]] = {}
    for name in _names(tree):
        if shaped := SHAPED.fullmatch(name):
            for letter in shaped[1]:
                if not letter.isdigit() and letter not in defined:
                    undefined.setdefault(letter, set()).add(name)
    return undefined


def _names(tree: ast.AST) -> Iterator[str]:
    """Every identifier of a file, and the shaped names that its docstrings speak of."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from (shaped[0] for shaped in SHAPED.finditer(ast.get_docstring(node) or ""))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_shape_letter_stands_in_the_legend_of_its_file(folder):
    undefined = {file.name: undefined_letters(file.read_text("utf-8")) for file in folder.glob("*.py")}
    assert {name: letters for name, letters in undefined.items() if letters} == {}


def test_a_letter_that_no_legend_defines_is_found():
    assert undefined_letters(
        '"""Legend: B batch, T = 4 * L frames. D is a word after it."""\nx_BTD = y_B4 = STEP_T = 1'
    ) == {"D": {"x_BTD"}}
    assert undefined_letters(
        '"""Sums; a legend is not here."""\ndef f(x_B): pass\nf(x_B=z.mean_C)\nself._best_Ka = 1'
    ) == {
        "B": {"x_B"},
        "C": {"mean_C"},
        "K": {"_best_Ka"},
        "a": {"_best_Ka"},
    }
    assert undefined_letters('def f():\n    """The sum of ``x_BT``; see a.b.load_json."""') == {
        "B": {"x_BT"},
        "T": {"x_BT"},
    }
    assert (
        undefined_letters('"""Legend: N pairs of\nE values; E embedding, K kinds of a T."""\nx_NE = x_KE = x_33') == {}
    )


def test_no_file_of_the_packages_has_more_than_400_lines():
    kinds = ("*.py", "*.js", "*.css", "*.glsl")
    files = [file for floor in ("intermoe", "pipelines") for kind in kinds for file in (ROOT / floor).rglob(kind)]
    assert [str(file) for file in files if len(file.read_text("utf-8").splitlines()) > 400] == []


def test_the_jobs_define_no_network():
    sources = {file: networks(file.read_text("utf-8")) for file in (ROOT / "pipelines").rglob("*.py")}
    assert {str(file.relative_to(ROOT)): names for file, names in sources.items() if names} == {}
    for name in modules_of("pipelines"):
        classes = [kind for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass)]
        assert [kind for kind in classes if issubclass(kind, nn.Module) and kind.__module__ == name] == []


def test_a_network_is_found():
    source = "class A(nn.Module): pass\nclass B(torch.nn.Module, C): pass\ndef f():\n    class D(Module): pass\n"
    assert networks(source) == ["A", "B", "D"]
    assert networks("class Modules(Config): pass\nclass Module: pass") == []


@pytest.mark.slow
def test_the_science_is_imported_without_ray_mlflow_and_the_jobs():
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ["intermoe", *ran.stdout.split()] == sorted(modules_of("intermoe"))


def test_what_is_light_does_not_import_torch():
    lines = "import sys, intermoe.errors, pipelines.cli; assert dir(intermoe) and 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_what_a_notebook_imports():
    import intermoe
    from intermoe import DatasetFolder, InterMoE, ModelConfig, Motion

    assert [kind.__module__ for kind in (DatasetFolder, InterMoE, ModelConfig, Motion)] == [
        "intermoe.data.shards",
        "intermoe.model",
        "intermoe.model_config",
        "intermoe.motion",
    ]
    assert set(intermoe.__all__) <= set(dir(intermoe))
    with pytest.raises(ImportError, match="cannot import name 'Trainer' from 'intermoe'"):
        from intermoe import Trainer  # type: ignore[attr-defined]  # noqa: F401


def test_the_science_is_typed_for_those_who_import_it():
    assert (ROOT / "intermoe/py.typed").is_file()
