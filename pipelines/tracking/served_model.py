"""The model that MLflow serves: prompts in, motion out. MLflow runs this file where it loads a registered model."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from intermoe.errors import UserError
from intermoe.generation import best_device
from intermoe.model import InterMoE
from intermoe.motion import Motion
from pipelines.tracking.client import CHECKPOINT, FORMATS

SECONDS, SEED = 4.0, 0
"""Length and seed of a motion whose row names none, as of `intermoe generate`."""


class ServedModel(PythonModel):
    """A trained generator behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint and its text encoder, so that what is missing stops the server and not a request.

        ``INTERMOE_TEXT_FOLDER`` names CLIP's weights, which are not part of the model, where they are not in the hub's
        cache.

        Raises:
            UserError: the encoder's weights are not there.
        """
        text_folder = os.environ.get("INTERMOE_TEXT_FOLDER")
        self._model = InterMoE.load(
            Path(context.artifacts[CHECKPOINT]),
            device=best_device(),
            text_folder=Path(text_folder) if text_folder else None,
        )
        try:
            self._model.encoder  # noqa: B018 - loads it
        except UserError as error:
            raise UserError(
                f"{error}",
                allowed="INTERMOE_TEXT_FOLDER: the folder of CLIP's weights, where the model reads with CLIP",
            ) from None

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's interface
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """A motion for each row.

        Args:
            context: of the model.
            model_input: ``prompt``, and where they differ from the defaults ``seconds`` and ``seed``.
            params: ``format``, one of ``FORMATS``.

        Returns:
            Of each row its ``prompt`` and ``fps``; ``joints`` [T, P, J, 3] in metres as nested lists, or ``bvh``, the
            text of a file per person, that which ``intermoe generate`` writes; P is 2, or 1 of a model of one person.

        Raises:
            MlflowException: a prompt, a length, a seed or a format that cannot be used; HTTP status 400.
        """
        form = (params or {}).get("format", FORMATS[0])
        if form not in FORMATS:
            raise MlflowException.invalid_parameter_value(f"params: format {form!r} (allowed: {', '.join(FORMATS)})")
        answers = []
        rows = model_input.to_dict("records")
        for number, row in enumerate(rows, start=1):
            prompt, seconds, seed = (
                _given(row, name, default) for name, default in (("prompt", ""), ("seconds", SECONDS), ("seed", SEED))
            )
            try:
                motion = self._model.generate(prompt, seconds=float(seconds), seed=int(seed))
            except UserError as error:
                raise MlflowException.invalid_parameter_value(f"row {number} of {len(rows)}: {error}") from None
            answer = motion.joints.tolist() if form == "joints" else _bvh(motion)
            answers.append({"prompt": motion.caption, "fps": motion.fps, form: answer})
        return answers


def _given(row: Mapping[Any, Any], name: str, default: str | float) -> Any:
    value = row.get(name)
    return default if value is None or pd.isna(value) else value


def _bvh(motion: Motion) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return [Path(str(file)).read_text("utf-8") for file in motion.save(Path(folder) / "motion.bvh")]


set_model(ServedModel())
