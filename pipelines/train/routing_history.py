"""The routing of a training over its steps: a file in the run's folder, and a heat map of each layer.

A line of the file is JSON: ``{"step": 20, "layers": [{"load": [...], "share": [...], "bias": [...],
"experts_per_token": 1.0, "unselected": 0.3, "router_entropy": 1.2}, ...]}``, lists with a number per expert. As curves
in MLflow these would be hundreds; there stand their summaries (``DenoiserObjective.pop_diagnostics``). The last line is
the checksum of those before: ``{"sha256": "..."}``.

Legend: E experts.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intermoe.errors import UserError
from intermoe.files import whole_file
from intermoe.moe.selection import LayerRouting
from intermoe.places import Place, read_bytes
from pipelines.documents import png
from pipelines.tracking.run_log import RunLog

ROUTING = "routing.jsonl"
"""Name of the file in the folder of a run."""
_ARTIFACTS = "routing"


class RoutingHistory:
    """The file ``routing.jsonl`` of a run; made when the first routing is saved."""

    def __init__(self, run: Place) -> None:
        """Read what is there of a run.

        Raises:
            UserError: the file was changed since it was written.
        """
        self._file = run / ROUTING
        try:
            *lines, seal = read_bytes(self._file).decode(errors="replace").splitlines(keepends=True) or [""]
        except FileNotFoundError:
            self._lines: list[str] = []
            return
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror or error}", where=self._file) from None
        if seal != _seal("".join(lines)):
            raise UserError(
                "does not match its checksum, its last line: it is damaged",
                where=self._file,
                allowed="delete it; the heat maps begin anew then",
            )
        self._lines = [line.rstrip("\n") for line in lines]

    def add(self, step: int, layers: Sequence[LayerRouting]) -> None:
        """Take note of the routing of all layers since the step before."""
        if layers:
            self._lines.append(json.dumps({"step": step, "layers": [_as_json(layer) for layer in layers]}))

    def save(self) -> None:
        """Write the file anew; what is added between two checkpoints is lost with a process, and computed again."""
        if self._lines:
            with whole_file(self._file) as partial:
                text = "".join(f"{line}\n" for line in self._lines)
                partial.write_text(text + _seal(text), "utf-8")

    def forget_after(self, step: int) -> None:
        """Drop what came after a step: a run that is resumed there computes it again."""
        self._lines = [line for line in self._lines if json.loads(line)["step"] <= step]

    def read(self) -> list[dict[str, Any]]:
        """All entries, in the order of their steps."""
        return [json.loads(line) for line in self._lines]

    def heat_maps(self) -> dict[str, bytes]:
        """A PNG of each layer by its file's name: loads and what the experts learned, experts down, steps across."""
        entries = self.read()
        if not entries:
            return {}
        steps = [entry["step"] for entry in entries]
        return {
            f"layer{number}.png": _heat_map(steps, [entry["layers"][number] for entry in entries], f"Layer {number}")
            for number in range(len(entries[0]["layers"]))
        }


def log_routing(run: RunLog, folder: Place) -> list[str]:
    """Add the history in a run's folder and its heat maps to the artifacts; the paths of the heat maps there."""
    maps = RoutingHistory(folder).heat_maps()
    if not maps:
        return []
    run.log_artifact(folder / ROUTING, _ARTIFACTS)
    with tempfile.TemporaryDirectory() as pictures:
        for name, picture in maps.items():
            (Path(pictures) / name).write_bytes(picture)
            run.log_artifact(Path(pictures) / name, _ARTIFACTS)
    return [f"{_ARTIFACTS}/{name}" for name in maps]


def _seal(text: str) -> str:
    """The last line of a file of such lines."""
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


def _as_json(layer: LayerRouting) -> dict[str, Any]:
    learned = {layer.learned_name: layer.learned_E} if layer.learned_E else {}
    names = ("experts_per_token", "unselected", "router_entropy")
    summary = {name: getattr(layer, name) for name in names}
    return {"load": layer.load_E, "share": layer.share_E, **learned, **summary}


def _heat_map(steps: Sequence[int], layers: Sequence[Mapping[str, Any]], title: str) -> bytes:
    from matplotlib.figure import Figure

    names = {"load": "Load: share of the tokens that an expert took"}
    names |= {name: f"{name.capitalize()} of an expert" for name in ("bias", "threshold") if name in layers[0]}
    figure = Figure(figsize=(8, 0.4 + 2.2 * len(names)), layout="constrained", dpi=110)
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axis, (name, text) in zip(axes, names.items(), strict=True):
        rows = list(zip(*(layer[name] for layer in layers), strict=True))
        extent = (steps[0], max(steps[-1], steps[0] + 1), len(rows) - 0.5, -0.5)
        image = axis.imshow(rows, aspect="auto", interpolation="nearest", extent=extent, cmap="viridis")
        axis.set_yticks(range(len(rows)))
        axis.set_ylabel("expert")
        axis.set_title(text, fontsize=9)
        figure.colorbar(image, ax=axis)
    axes[-1].set_xlabel("step")
    figure.suptitle(title, fontsize=10)
    return png(figure)
