"""The routing map: each gate at its place, in its person's colour."""

import numpy as np
import pytest
import torch
from PIL import Image

from intermoe.moe.routing_map import RoutingMap
from intermoe.render.painter import PERSON_COLOURS
from intermoe.render.routing import write_routing_map

STAGES, LAYERS, LATENTS, EXPERTS = 2, 3, 5, 4


@pytest.fixture
def draw(meeting, tmp_path):
    """A function that draws gates and gives the panels, a stage and person each, as rows of experts [M, E, T, 3]."""

    def draw(gates: torch.Tensor) -> list[np.ndarray]:
        routing = RoutingMap(gates, tuple((100 - 50 * q, 60 - 50 * q) for q in range(len(gates))), stride=4)
        write_routing_map(meeting(18), routing, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as file:
            assert file.format == "PNG"
            picture = np.asarray(file.convert("RGB")).astype(int)
        # The panels are what reaches to the right edge of the plot below the key frames: white lies between layers.
        edge = picture[:, -26]
        filled = (edge < 255).any(axis=1)
        starts, ends = (np.nonzero(np.diff(np.pad(filled.astype(int), 1)) == step)[0] for step in (1, -1))
        blocks = list(zip(starts, ends, strict=True))[1:]  # the first are the key frames
        assert len(blocks) == STAGES * 2 * LAYERS
        left = picture.shape[1] - 24 - 8 * 288
        columns = [left + round((frame + 0.5) * 8 * 288 / 18) for frame in range(18)]
        rows = []
        for start, end in blocks:
            step = (end - start) / EXPERTS
            rows.append([[picture[int(start + (e + 0.5) * step), x] for x in columns] for e in range(EXPERTS)])
        layers = np.array(rows)
        return [layers[n * LAYERS : (n + 1) * LAYERS] for n in range(STAGES * 2)]

    return draw


def test_each_gate_has_its_place_and_its_strength(draw):
    gates = torch.zeros(STAGES, LAYERS, 2, LATENTS, EXPERTS)
    gates[0, 1, 0, 2, 3] = 1.0  # first stage, second layer, first person, third latent frame, last expert
    gates[1, 2, 1, 4, 0] = 0.5
    panels = draw(gates)
    for number, panel in enumerate(panels):
        grey = panel[0, 1, 0]
        marked = {tuple(place) for place in np.argwhere((panel != grey).any(-1)).tolist()}
        expected = {
            1 - 1: {(1, 3, frame) for frame in range(8, 12)},
            4 - 1: {(2, 0, frame) for frame in (16, 17)},
        }
        assert marked == expected.get(number, set()), number
    assert panels[0][1, 3, 9].tolist() == list(PERSON_COLOURS[0])
    weaker = 255 + 0.6 * (np.array(PERSON_COLOURS[1]) - 255)
    np.testing.assert_allclose(panels[3][2, 0, 17], weaker, atol=1)
