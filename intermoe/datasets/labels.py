"""What a data set knows of its recordings beside their captions: labels.jsonl, which only ours have.

A line a recording: {"id": ..., "kind": ..., "actor": 0 or 1, ...}, strings and whole numbers.
"""

import json

from intermoe.datasets.text_files import text_of
from intermoe.errors import UserError
from intermoe.places import Place, exists

LABELS = "labels.jsonl"
"""The file's name."""


def read_labels(file: Place) -> dict[str, dict[str, str | int]]:
    """The labels of a file, by id; empty without that file, and ``UserError`` where a line is none."""
    labels: dict[str, dict[str, str | int]] = {}
    if not exists(file):
        return labels
    for number, line in enumerate(text_of(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            label = json.loads(line)
        except (ValueError, RecursionError):
            label = None
        if not (
            isinstance(label, dict)
            and isinstance(label.get("id"), str)
            and all(isinstance(value, str | int) for value in label.values())
        ):
            raise UserError(
                f"line {number} is no label",
                where=file,
                allowed='a JSON object of strings and whole numbers with an "id"',
            )
        labelled = label.pop("id")
        if labelled in labels:
            raise UserError(f"line {number} labels {labelled!r} a second time", where=file)
        labels[labelled] = label
    return labels
