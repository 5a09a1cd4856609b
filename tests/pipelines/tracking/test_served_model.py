"""What MLflow runs of a registered model: rows of prompts in, joints or BVH out."""

import ast
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from small_clip import write_clip
from small_model import save_model, small_model

import intermoe
from intermoe.errors import UserError
from intermoe.model import InterMoE
from pipelines.tracking import address, client, registry, served_model
from pipelines.tracking.served_model import ServedModel

ROW: Mapping[str, Any] = {"prompt": "They bow.", "seconds": 1.0, "seed": 3}


def loaded(folder: Path) -> ServedModel:
    model = ServedModel()
    model.load_context(SimpleNamespace(artifacts={client.CHECKPOINT: str(folder)}))  # type: ignore[arg-type]
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("served") / "best", small_model())


@pytest.fixture(scope="module")
def served(folder) -> ServedModel:
    return loaded(folder)


def predict(served: ServedModel, *rows: Mapping[str, Any], **params: str) -> list[dict[str, Any]]:
    return served.predict(None, pd.DataFrame(list(rows)), params)  # type: ignore[arg-type]


def test_a_row_gives_the_joints_of_generate(served, folder):
    motion = InterMoE.load(folder).generate(ROW["prompt"], seconds=1.0, seed=3)
    assert predict(served, ROW) == [{"prompt": "They bow.", "fps": 30, "joints": motion.joints.tolist()}]


def test_a_row_is_answered_alike_alone_and_among_others(served):
    alone = predict(served, ROW, format="bvh")
    assert predict(served, {**ROW, "prompt": "Hug!"}, ROW, format="bvh")[1:] == alone


def test_a_seed_that_is_not_named_is_0(served):
    without = {"prompt": "They bow.", "seconds": 1.0}
    assert predict(served, without) == predict(served, {**without, "seed": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "row 2 of 2: a prompt is empty (allowed: a sentence)"),
        ({"prompt": None}, "row 2 of 2: a prompt is empty (allowed: a sentence)"),
        ({"seed": -1}, "row 2 of 2: seed -1 (allowed: 0 or more)"),
        (
            {"seconds": 900.0},
            (
                "row 2 of 2: seconds: 900 seconds are 27000 frames "
                "(allowed: 0.5 to 2.067; the model learned from up to 62 frames)"
            ),
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_what_is_allowed(served, change, message):
    with pytest.raises(MlflowException) as caught:
        predict(served, ROW, {**ROW, **change})
    assert (caught.value.message, caught.value.get_http_status_code()) == (message, 400)


def test_another_format_is_refused_by_name(served):
    with pytest.raises(MlflowException) as caught:
        predict(served, ROW, format="mp4")
    assert (caught.value.message, caught.value.get_http_status_code()) == (
        "params: format 'mp4' (allowed: joints, bvh)",
        400,
    )


@pytest.fixture
def reads_with_clip(tmp_path) -> Path:
    return save_model(tmp_path / "best", small_model(data={"encoder": "clip"}))


def test_a_model_that_reads_with_clip_does_not_load_without_its_weights(reads_with_clip, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("INTERMOE_TEXT_FOLDER", str(tmp_path / "empty"))
    with pytest.raises(UserError) as caught:
        loaded(reads_with_clip)
    assert str(caught.value) == (
        f"{tmp_path}/empty: no weights of CLIP (model.safetensors) here; save_pretrained(FOLDER) of "
        "transformers' CLIPTextModel, CLIPTokenizer of 'openai/clip-vit-large-patch14-336' "
        "(allowed: INTERMOE_TEXT_FOLDER: the folder of CLIP's weights, where the model reads with CLIP)"
    )


def test_a_model_that_reads_with_clip_finds_its_weights_by_environment(reads_with_clip, tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    write_clip(tmp_path / "clip")
    monkeypatch.setenv("INTERMOE_TEXT_FOLDER", str(tmp_path / "clip"))
    (answer,) = predict(loaded(reads_with_clip), ROW)
    motion = InterMoE.load(reads_with_clip, text_folder=tmp_path / "clip").generate("They bow.", seconds=1.0, seed=3)
    assert answer["joints"] == motion.joints.tolist()


def test_what_the_code_that_is_stored_imports_is_required():
    """The science, whole, and of the jobs what the served file imports."""
    files = [
        *Path(intermoe.__path__[0]).rglob("*.py"),
        *(Path(str(m.__file__)) for m in (served_model, client, address)),
    ]
    names = {
        name.partition(".")[0]
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for name in _imported(node)
    }
    # Several packages bring the module mlflow.
    packages = packages_distributions()
    missing = {
        name
        for name in names - {"intermoe", "pipelines"} - sys.stdlib_module_names
        if not {package.replace("_", "-").lower() for package in packages[name]} & set(registry.REQUIREMENTS)
    }
    assert missing == set()


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
