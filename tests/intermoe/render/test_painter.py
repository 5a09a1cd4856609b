"""Limbs and ellipsoids against brute force, and the colours of normals."""

import numpy as np
import pytest

from intermoe.render.painter import PERSON_COLOURS, Painter, colour_tables

FAR = np.float32(1e6)


def canvas() -> tuple[Painter, np.ndarray]:
    depth = np.full((64, 80), FAR, np.float32)
    return Painter(depth), depth


@pytest.mark.parametrize(
    ("ends", "depths", "radii"),
    [
        (((20.3, 30.1), (55.2, 41.0)), (40.0, 40.0), (9.0, 9.0)),
        (((20.3, 30.1), (55.2, 41.0)), (40.0, 75.0), (9.0, 9.0)),
        (((40.0, 30.0), (44.0, 33.0)), (90.0, 40.0), (8.0, 8.0)),
        (((30.0, 20.0), (30.0, 20.0)), (50.0, 50.0), (12.0, 12.0)),
        (((20.0, 30.0), (60.0, 35.0)), (50.0, 65.0), (12.0, 7.0)),
    ],
    ids=["across", "slanted", "towards us", "a sphere", "tapered"],
)
def test_a_limb_is_the_union_of_its_spheres(ends, depths, radii):
    painter, depth = canvas()
    painter.limb(np.array(ends), depths, radii, 1.0, colour_tables(PERSON_COLOURS)[0, "left"])
    y, x = np.mgrid[0:64, 0:80] + 0.5
    expected = np.full((64, 80), FAR)
    for at in np.linspace(0, 1, 800):
        centre = np.array(ends[0]) * (1 - at) + np.array(ends[1]) * at
        radius = radii[0] * (1 - at) + radii[1] * at
        square = radius**2 - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
        front = depths[0] * (1 - at) + depths[1] * at - np.sqrt(np.maximum(square, 0))
        expected = np.where(square > 0, np.minimum(expected, front), expected)
    drawn, due = depth < FAR, expected < FAR
    # A tapered limb is exact but for slivers at its silhouette.
    tapered = radii[0] != radii[1]
    assert (drawn != due).mean() <= (0.01 if tapered else 0.003)
    error = np.abs(depth - expected)[drawn & due]
    assert np.quantile(error, 0.98) < (1.0 if tapered else 0.1)


def test_an_ellipsoid_fulfils_its_equation():
    painter, depth = canvas()
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    half = np.array([20.0, 12.0, 7.0])
    painter.ellipsoid(
        np.array([40.2, 30.7]), 100.0, half[:, None] * rotation, 1.0, colour_tables(PERSON_COLOURS)[0, "middle"]
    )
    y, x = np.nonzero(depth < FAR)
    surface = np.stack([x + 0.5 - 40.2, y + 0.5 - 30.7, depth[y, x] - 100.0], axis=1) @ rotation.T / half
    np.testing.assert_allclose((surface**2).sum(1), 1, atol=0.01)
    assert surface.shape[0] == pytest.approx(np.pi * _shadow_area(half, rotation), rel=0.02)


def _shadow_area(half: np.ndarray, rotation: np.ndarray) -> float:
    """Product of the half axes of an ellipsoid's outline, looking along z."""
    shape = rotation.T @ np.diag(half**2) @ rotation
    return float(np.sqrt(np.linalg.det(shape[:2, :2])))


def test_what_is_nearer_stays_whatever_the_order():
    tables = colour_tables(PERSON_COLOURS)
    pictures = []
    for order in ((0, 1), (1, 0)):
        painter, _ = canvas()
        for person in order:
            ends = np.array([[15.0, 32.0], [65.0, 32.0]]) if person == 0 else np.array([[40.0, 8.0], [40.0, 56.0]])
            away = 30.0 if person == 0 else 60.0
            painter.limb(ends, (away, away), (6.0, 6.0), 1.0, tables[person, "middle"])
        pictures.append(np.asarray(painter.over(_white())))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    red, _, blue = pictures[0][16, 20].astype(int)
    assert red > blue + 60, "the orange limb is nearer at the crossing"
    red, _, blue = pictures[0][6, 20].astype(int)
    assert blue > red + 60


def _white():
    from PIL import Image

    return Image.new("RGB", (40, 32), "white")


def test_edges_are_mixed_with_what_is_behind():
    painter, _ = canvas()
    painter.limb(
        np.array([[20.0, 20.0], [50.0, 41.0]]), (9.0, 9.0), (8.0, 8.0), 0.1, np.full(4096, 0xFF000000, np.uint32)
    )
    values = set(np.unique(np.asarray(painter.over(_white()))).tolist())
    assert {0, 255} < values
    assert values <= {0, 63, 64, 127, 128, 191, 192, 255}, "a pixel has four samples"


def test_left_is_lighter_than_the_trunk_and_right_is_darker():
    tables = colour_tables(PERSON_COLOURS)
    for person in range(2):
        light = [
            tables[person, side].view(np.uint8).reshape(-1, 4)[:, :3].mean() for side in ("left", "middle", "right")
        ]
        assert light[0] > light[1] + 15 > light[2] + 25
