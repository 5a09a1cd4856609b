"""Drawing bodies into a depth buffer, so that whatever is nearer hides what is behind it.

Within the few pixels of one form the rays are taken as parallel: then its surface, depth and normal have a closed form.
The colour comes from a table of surface normals.

Legend: P persons, K points of a body, H rows of pixels, W columns of pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from intermoe.render.body import Body
from intermoe.render.camera import Camera

SAMPLES = 2  # a pixel is drawn as 2 x 2 and averaged: smooth edges
# Orange and blue: told apart with every kind of colour blindness.
PERSON_COLOURS = ((232, 126, 34), (43, 112, 190))
SIDE_TONES = {"left": 0.34, "middle": 0.0, "right": -0.20}  # toward white or black
_NORMALS = 64

Tables = dict[tuple[int, str], NDArray[np.uint32]]


def side_colour(colour: tuple[int, int, int], side: str) -> NDArray[np.float64]:
    """A person's colour on one side of the body: red, green and blue from 0 to 1, as screens take them."""
    base, tone = np.array(colour) / 255, SIDE_TONES[side]
    return base + tone * (1 - base) if tone > 0 else base * (1 + tone)


def colour_tables(colours: Sequence[tuple[int, int, int]]) -> Tables:
    """Colour by the x and y of the surface normal, for each person and side: light from the upper left.

    A table has 64 x 64 entries in rows of equal y; an entry holds the bytes red, green, blue, 255.
    """
    grid = (np.arange(_NORMALS) + 0.5) / _NORMALS * 2 - 1
    x, y = np.meshgrid(grid, grid)
    z = -np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    light = np.array([-0.50, -0.72, -0.62]) / np.linalg.norm([-0.50, -0.72, -0.62])
    half = light - np.array([0.0, 0.0, 1.0])  # between the light and the eye
    half /= np.linalg.norm(half)
    facing = x * light[0] + y * light[1] + z * light[2]
    # Light that reaches around the form keeps the shade readable; sky from above; a darker rim parts body from body.
    shade = 0.50 + 0.62 * np.clip(0.5 + 0.5 * facing, 0, 1) ** 1.5 - 0.08 * y
    shade *= 1 - 0.30 * np.clip(1 + z, 0, 1) ** 3
    gloss = 0.13 * np.clip(x * half[0] + y * half[1] + z * half[2], 0, 1) ** 22
    tables: Tables = {}
    for person, colour in enumerate(colours):
        for side in SIDE_TONES:
            linear = side_colour(colour, side) ** 2.2 * shade[..., None] ** 2.2 + gloss[..., None]
            entry = np.full((_NORMALS, _NORMALS, 4), 255, np.uint8)
            entry[..., :3] = np.clip(linear, 0, 1) ** (1 / 2.2) * 255
            tables[person, side] = entry.view(np.uint32).reshape(-1)
    return tables


class Painter:
    """One region of a picture, at ``SAMPLES`` times its resolution; all pixels here are of that finer grid.

    Args:
        depth_HW: depths of what stands there already, such as the ground; forms behind it stay hidden.
    """

    def __init__(self, depth_HW: NDArray[np.float32]) -> None:
        self._depth_HW = depth_HW
        self._colour_HW: NDArray[np.uint32] = np.zeros(depth_HW.shape, np.uint32)

    def limb(
        self,
        ends_22: NDArray,
        depths: tuple[float, float],
        radii: tuple[float, float],
        pixel: float,
        table: NDArray[np.uint32],
    ) -> None:
        """Draw a swept sphere.

        Args:
            ends_22: pixels (x, y) of both ends.
            depths: of both ends, metres.
            radii: at both ends, pixels.
            pixel: size of a pixel at the limb, metres.
            table: colour by normal.
        """
        reach = max(radii)
        window = self._window(*(ends_22.min(0) - reach), *(ends_22.max(0) + reach))
        if window is None:
            return
        x, y = _grid(window, ends_22[0])
        axis_x, axis_y = (ends_22[1] - ends_22[0]).tolist()
        length = (axis_x * axis_x + axis_y * axis_y) ** 0.5
        if length < 1e-3:  # straight towards us: any direction will do
            axis_x, axis_y, length = 1e-3, 0.0, 1e-3
        ax, ay = axis_x / length, axis_y / length
        along, aside = x * ax + y * ay, y * ax - x * ay
        rise = (depths[1] - depths[0]) / pixel
        taper = radii[1] - radii[0]
        # Where the limb points to or from us, the sphere that a ray meets first is not the one beside it but off by the
        # slant: the place that minimises depth along the axis minus half the chord through the sphere.
        radius = radii[0] + taper / length * np.clip(along, 0, length)
        chord = np.sqrt(np.maximum(radius * radius - aside * aside, 0))
        slant = rise / (rise * rise + length * length) ** 0.5
        at = np.clip((along - slant * chord) / length, 0, 1)
        radius = radii[0] + taper * at
        off = along - length * at
        square = radius * radius - off * off - aside * aside
        depth = depths[0] + pixel * (rise * at - np.sqrt(np.maximum(square, 0)))
        seen = self._seen(window, square > 0, depth)
        off, aside, scale = off[seen], aside[seen], 1 / radius[seen]
        self._colour(window, seen, (off * ax - aside * ay) * scale, (off * ay + aside * ax) * scale, table)

    def ellipsoid(
        self, middle_2: NDArray, depth: float, axes_33: NDArray, pixel: float, table: NDArray[np.uint32]
    ) -> None:
        """Draw an ellipsoid.

        Args:
            middle_2: pixel (x, y) of its middle.
            depth: of its middle, metres.
            axes_33: half axes as rows in view directions (right, down, away), pixels.
            pixel: size of a pixel there, metres.
            table: colour by normal.
        """
        extent = np.linalg.norm(axes_33, axis=0)[:2]
        window = self._window(*(middle_2 - extent), *(middle_2 + extent))
        if window is None:
            return
        x, y = _grid(window, middle_2)
        # Surface: d' Q d = 1 for d from the middle; along a ray only its depth is unknown. A tenth of a pixel is added
        # all around: joints that lie on one another give axes without length.
        q = np.linalg.inv(axes_33.T @ axes_33 + 0.01 * np.eye(3)).tolist()
        linear = (q[0][2] * x + q[1][2] * y) / q[2][2]
        constant = (q[0][0] * x * x + 2 * q[0][1] * x * y + q[1][1] * y * y - 1) / q[2][2]
        square = linear * linear - constant
        away = -linear - np.sqrt(np.maximum(square, 0))
        seen = self._seen(window, square > 0, depth + pixel * away)
        x, y, away = np.broadcast_to(x, away.shape)[seen], np.broadcast_to(y, away.shape)[seen], away[seen]
        normal = [row[0] * x + row[1] * y + row[2] * away for row in q]
        scale = 1 / np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
        self._colour(window, seen, normal[0] * scale, normal[1] * scale, table)

    def over(self, behind: Image.Image) -> Image.Image:
        """The bodies in front of a picture of this region at its own resolution."""
        height, width = self._colour_HW.shape
        # Where nothing was drawn all four bytes are 0: the mean of a pixel's samples is colour times coverage. As RGBX,
        # since Pillow would divide the colours of an RGBA picture by its alpha.
        bodies = Image.frombuffer("RGBX", (width, height), self._colour_HW, "raw", "RGBX", 0, 1).reduce(SAMPLES)
        red, green, blue, cover = bodies.split()
        behind.paste((0, 0, 0), mask=cover)
        return ImageChops.add(behind, Image.merge("RGB", (red, green, blue)))

    def _window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice] | None:
        height, width = self._depth_HW.shape
        rows = slice(max(int(top), 0), min(int(bottom) + 2, height))
        columns = slice(max(int(left), 0), min(int(right) + 2, width))
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None

    def _seen(self, window: tuple[slice, slice], inside: NDArray, depth: NDArray) -> NDArray[np.bool_]:
        """Where the form is nearer than all drawn before; there its depth is noted."""
        before = self._depth_HW[window]
        seen = inside & (depth < before)
        np.copyto(before, depth, where=seen)
        return seen

    def _colour(
        self, window: tuple[slice, slice], seen: NDArray, x: NDArray, y: NDArray, table: NDArray[np.uint32]
    ) -> None:
        column = (x * (_NORMALS / 2) + _NORMALS / 2).astype(np.int32)
        row = (y * (_NORMALS / 2) + _NORMALS / 2).astype(np.int32)
        self._colour_HW[window][seen] = table.take(row * _NORMALS + column, mode="clip")


def _grid(window: tuple[slice, slice], origin_2: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances of a window's pixel centres from a place: x [1, w] and y [h, 1]."""
    rows, columns = window
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + np.float32(0.5 - origin_2[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + np.float32(0.5 - origin_2[1])
    return x, y


def paint_bodies(
    painter: Painter,
    camera: Camera,
    points_PK3: NDArray,
    *,
    corner: tuple[int, int],
    body: Body,
    scale_P: NDArray,
    tables: Tables,
) -> None:
    """Draw all persons of one frame; the painter's region begins at the pixel ``corner`` (x, y) of the picture."""
    pixel_PK2, depth_PK = camera.project(points_PK3)
    pixel_PK2 = (pixel_PK2 - np.array(corner)) * SAMPLES
    focal = camera.focal * SAMPLES
    for person, points_K3 in enumerate(points_PK3):
        for limb in body.limbs:
            near, far = float(depth_PK[person, limb.start]), float(depth_PK[person, limb.end])
            size = float(scale_P[person]) * focal
            painter.limb(
                pixel_PK2[person, [limb.start, limb.end]],
                (near, far),
                (limb.radius_start * size / near, limb.radius_end * size / far),
                (near + far) / 2 / focal,
                tables[person, limb.side],
            )
        for form in body.ellipsoids:
            depth = float(depth_PK[person, form.first])
            axes_33 = (points_K3[form.first + 1 : form.first + 4] - points_K3[form.first]) @ camera.rotation_33.T
            table = tables[person, form.side]
            painter.ellipsoid(pixel_PK2[person, form.first], depth, axes_33 * focal / depth, depth / focal, table)
