"""The evaluator of an evaluation: whether it fits the data, and what the results say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from intermoe import checkpoint
from intermoe.data.card import CARD
from intermoe.data.shards import DataConfig, DatasetFolder
from intermoe.errors import UserError
from intermoe.evaluation.conventions import KnownRow, protocol_differences
from intermoe.evaluation.evaluator import Evaluator
from intermoe.evaluation.protocol import EvaluationConfig
from intermoe.files import sha256
from intermoe.model_config import trained_folder
from intermoe.places import Place
from intermoe.text.encoders import load_encoder
from pipelines import settings
from pipelines.site import Site
from pipelines.tracking.queries import model_folder


@dataclass(frozen=True)
class Judge:
    """An evaluator that fits a data set.

    Attributes:
        folder: its checkpoint.
        evaluator: its networks and conventions.
        stored: the settings that it was stored with, as plain values.
    """

    folder: Place
    evaluator: Evaluator
    stored: Mapping[str, Any]

    @classmethod
    def load(cls, evaluator: str | Place, data: DatasetFolder, site: Site) -> Self:
        """The evaluator of a run, checkpoint or id of a run in MLflow.

        Raises:
            UserError: there is none, it reads other data, or the tokenizer that it needs is missing.
        """
        folder = trained_folder(model_folder(evaluator, site.tracking_uri)).resolve()
        judge = cls(folder, Evaluator.load(folder), checkpoint.documents(folder)["config"])
        # Words are of no encoder.
        keys = ("skeleton",) if judge.evaluator.config.reads == "words" else ("skeleton", "encoder")
        check_reads(data, judge.evaluator.data, who="evaluator", where=folder, keys=keys)
        data.check_persons(judge.evaluator.data.persons)
        if judge.evaluator.config.reads == "tokens":
            load_encoder("clip", site.text_folder)
        return judge

    def protocol(self, overrides: Mapping[str, Any]) -> EvaluationConfig:
        """How it is meant to be evaluated, with values by their dotted keys (``evaluation.pool``) on top.

        Raises:
            UserError: an unknown key, or a value out of range.
        """
        values = settings.assigned({"evaluation": self.stored.get("evaluation", {})}, overrides)
        return EvaluationConfig.parse(values["evaluation"], where=self.folder)

    def known_row(self, data: DatasetFolder, split: str) -> KnownRow | None:
        """What it is known to give for the recordings of that split; None where that is not known."""
        known = self.evaluator.config.conventions.known_row
        return known if known and known.is_of(data.card.name, data.card.skeleton, split) else None

    def about(self, data: DatasetFolder, split: str, used: EvaluationConfig, max_frames: int) -> dict[str, Any]:
        """What results say of evaluator, data and protocol, as plain values.

        Args:
            data: the recordings.
            split: of them.
            used: how they are evaluated.
            max_frames: longer ones are cropped to that.
        """
        known = self.known_row(data, split)
        own = self.evaluator.data.max_frames
        # A notebook may have stored an evaluator without the protocol that it is meant for.
        its = self.protocol({}) if "evaluation" in self.stored else used
        return {
            "evaluator": str(self.folder),
            "evaluator_sha256": sha256(self.folder / checkpoint.MANIFEST),
            "data": str(data.path),
            "data_sha256": sha256(data.path / CARD),
            "split": split,
            "recordings": len(data.index(split).ids),
            "evaluation": used.model_dump(mode="json"),
            "scales": self.evaluator.config.conventions.scales.model_dump(mode="json"),
            "known_row": known.model_dump(mode="json") if known else None,
            "protocol_differences": protocol_differences(used, its, max_frames=max_frames, own_max_frames=own),
        }


def check_reads(
    data: DatasetFolder, config: DataConfig, *, who: str, where: Place, keys: Sequence[str] = ("skeleton", "encoder")
) -> None:
    """Raise ``UserError`` where networks of such a config do not read the data set: one of the keys differs."""
    for key, needed in (("skeleton", data.card.skeleton), ("encoder", data.card.encoder.name)):
        if key in keys and getattr(config, key) != needed:
            raise UserError(
                f"data.{key} of the {who} is {getattr(config, key)!r}",
                where=where,
                allowed=f"{needed!r}, as in {data.path}",
            )
