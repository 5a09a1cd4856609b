"""The routing of a training over its steps, without a training."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intermoe.errors import UserError
from intermoe.moe.selection import LayerRouting
from pipelines.train.routing_history import ROUTING, RoutingHistory


def layer(load_E: list[float], name: str = "bias") -> LayerRouting:
    return LayerRouting(
        load_E=load_E,
        share_E=[load / sum(load_E) for load in load_E],
        learned_E=[-load for load in load_E],
        learned_name=name,
        experts_per_token=sum(load_E),
        unselected=0.25,
        router_entropy=1.0,
    )


def test_a_line_holds_the_routing_of_all_layers_of_a_step(tmp_path: Path) -> None:
    history = RoutingHistory(tmp_path)
    history.add(20, [layer([0.75, 0.25]), layer([0.5, 0.5], name="threshold")])
    history.save()
    line, _checksum = (tmp_path / ROUTING).read_text().splitlines()
    summary = {"experts_per_token": 1.0, "unselected": 0.25, "router_entropy": 1.0}
    assert json.loads(line) == {
        "step": 20,
        "layers": [
            {"load": [0.75, 0.25], "share": [0.75, 0.25], "bias": [-0.75, -0.25], **summary},
            {"load": [0.5, 0.5], "share": [0.5, 0.5], "threshold": [-0.5, -0.5], **summary},
        ],
    }


def test_a_history_that_was_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    history = RoutingHistory(tmp_path)
    for step in (10, 20):
        history.add(step, [layer([0.75, 0.25])])
    history.save()
    file, whole = tmp_path / ROUTING, (tmp_path / ROUTING).read_bytes()
    for changed in (
        whole.replace(b"0.75", b"0.85", 1),
        whole.splitlines(keepends=True)[0],
        whole + b"\n",
        b"",
        b"\xff",
    ):
        file.write_bytes(changed)
        with pytest.raises(UserError) as caught:
            RoutingHistory(tmp_path)
        problem = "does not match its checksum, its last line: it is damaged"
        assert str(caught.value) == f"{file}: {problem} (allowed: delete it; the heat maps begin anew then)"


def test_without_experts_nothing_is_written(tmp_path: Path) -> None:
    history = RoutingHistory(tmp_path)
    history.add(20, [])
    history.forget_after(10)
    history.save()
    assert (history.read(), history.heat_maps(), list(tmp_path.iterdir())) == ([], {}, [])


def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = RoutingHistory(tmp_path / "whole"), RoutingHistory(tmp_path / "killed")
    for step in (10, 20, 30, 40):
        whole.add(step, [layer([step / 100, 0.5])])
    for step in (10, 20, 30):
        killed.add(step, [layer([step / 100, 0.5])])
    killed.save()
    killed = RoutingHistory(tmp_path / "killed")
    killed.forget_after(20)
    for step in (30, 40):
        killed.add(step, [layer([step / 100, 0.5])])
    assert killed.read() == whole.read()
    assert [entry["step"] for entry in whole.read()] == [10, 20, 30, 40]


def test_each_layer_has_one_heat_map(tmp_path: Path) -> None:
    history = RoutingHistory(tmp_path)
    for step in (10, 20, 30):
        history.add(step, [layer([0.1, 0.9]), layer([0.9, 0.1])])
    maps = history.heat_maps()
    assert list(maps) == ["layer0.png", "layer1.png"]
    first, second = (np.asarray(Image.open(BytesIO(png)).convert("RGB"), np.int16) for png in maps.values())
    assert first.shape == second.shape == (528, 880, 3)
    # The two layers are each other's mirror image: the rows of experts change places.
    row, middle = 50, 400
    assert (first[row + 30, middle] != first[row + 130, middle]).any()
    assert (first[row + 30, middle] == second[row + 130, middle]).all()
