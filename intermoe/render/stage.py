"""The stage: a ground with a grid that fades out, the shadows people throw on it, and the people themselves.

Legend: T frames, P persons, J joints, K points of a body.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from intermoe.body.skeletons import Skeleton
from intermoe.render.body import Body
from intermoe.render.camera import Camera
from intermoe.render.painter import PERSON_COLOURS, SAMPLES, Painter, colour_tables, paint_bodies

# Joints lie inside the flesh: the sole is this much below the lowest joint, whose height is 0.
SOLE = 0.03
SKY_TOP, SKY = np.array([226.0, 231.0, 238.0]), np.array([244.0, 246.0, 249.0])
GROUND, LINE = np.array([232.0, 235.0, 239.0]), np.array([186.0, 193.0, 203.0])
SHADOW = (52, 60, 76)
# The light comes from above, left of the camera and behind it: metres of shadow right and away for a metre of height.
SHADOW_RIGHT, SHADOW_AWAY = 0.34, 0.30
_SHADOW_CELL, _SHADOW_CELLS = 0.015, 800  # metres a cell of the shadow map; coarser where it would get this wide
_SHADOW_RIM = 0.30  # metres around the joints that a shadow may reach
_FADE_FROM, _FADE_OVER = 1.0, 3.0


class Stage:
    """Everything that stays the same from frame to frame, and the drawing of one frame.

    Args:
        joints_TPJ3: the whole motion in metres, ground at y = 0.
        skeleton: what the joints are.
        camera: must have all joints in front of it.
    """

    def __init__(self, joints_TPJ3: NDArray, skeleton: Skeleton, camera: Camera) -> None:
        joints_TPJ3 = joints_TPJ3.astype(np.float64)
        self._body = Body(skeleton)
        self._scale_P = self._body.scale(joints_TPJ3)
        self._points_TPK3 = self._body.points(joints_TPJ3, self._scale_P)
        self._tables = colour_tables(PERSON_COLOURS)
        self.camera = camera
        ground_2 = joints_TPJ3[..., [0, 2]].reshape(-1, 2)
        self._low_2, self._high_2 = ground_2.min(0), ground_2.max(0)

    @cached_property
    def background(self) -> Image.Image:
        """The empty stage."""
        rays = self.camera.rays()
        down = np.maximum(-rays[..., 1], 1e-4)
        distance = self._eye_height / down
        ground = self.camera.eye_3[[0, 2]] + distance[..., None] * rays[..., [0, 2]]
        middle = (self._low_2 + self._high_2) / 2
        spread = np.linalg.norm(self._high_2 - self._low_2) / 2
        beyond = np.linalg.norm(ground - middle, axis=-1) - spread - _FADE_FROM
        fade = np.where(self._on_ground(rays), np.clip(1 - beyond / _FADE_OVER, 0, 1), 0) ** 1.5
        # Size of a pixel on the ground along x and z: lines keep their weight in the distance and do not shimmer.
        footprint = (distance / self.camera.focal)[..., None] * (1 + np.abs(rays[..., [0, 2]]) / down[..., None])
        footprint = np.maximum(footprint, 1e-6)
        lines = np.zeros(distance.shape)
        for spacing, width, weight in ((0.5, 0.010, 0.55), (1.0, 0.016, 0.8)):
            off = np.abs((ground + spacing / 2) % spacing - spacing / 2)
            cover = np.clip((width / 2 + footprint / 2 - off) / footprint, 0, 1) * np.minimum(width / footprint, 1)
            lines = np.maximum(lines, cover.max(-1) * weight)
        row = np.linspace(0, 1, len(distance))[:, None, None]
        picture = SKY_TOP + (SKY - SKY_TOP) * np.minimum(row * 2, 1) + np.zeros((*distance.shape, 3))
        picture += fade[..., None] * (GROUND + lines[..., None] * (LINE - GROUND) - picture)
        return Image.fromarray(picture.round().astype(np.uint8))

    def draw(self, frame: int, base: Image.Image | None = None) -> Image.Image:
        """One frame as RGB, drawn over ``base`` (the background, where not given)."""
        points_PK3 = self._points_TPK3[frame]
        picture = (self.background if base is None else base).copy()
        self._cast_shadows(picture, points_PK3)
        left, top, right, bottom = self._box(points_PK3)
        if left < right and top < bottom:
            region = slice(top * SAMPLES, bottom * SAMPLES), slice(left * SAMPLES, right * SAMPLES)
            painter = Painter(self._ground_depth[region].copy())
            paint_bodies(
                painter,
                self.camera,
                points_PK3,
                corner=(left, top),
                body=self._body,
                scale_P=self._scale_P,
                tables=self._tables,
            )
            picture.paste(painter.over(picture.crop((left, top, right, bottom))), (left, top))
        return picture

    @property
    def _eye_height(self) -> float:
        """Of the camera above the ground, metres; negative where a broken motion takes it below."""
        return float(self.camera.eye_3[1] + SOLE)

    def _on_ground(self, rays: NDArray) -> NDArray[np.bool_]:
        return (rays[..., 1] < -1e-4) & (self._eye_height > 0)

    @cached_property
    def _ground_depth(self) -> NDArray[np.float32]:
        rays = self.camera.rays(SAMPLES)
        depth = np.float32(self._eye_height) / np.maximum(-rays[..., 1], np.float32(1e-4))
        return np.where(self._on_ground(rays), depth, np.float32(np.inf))

    def _box(self, points_PK3: NDArray) -> tuple[int, int, int, int]:
        """Pixels (left, top, right, bottom) that hold all bodies."""
        pixel, depth = self.camera.project(points_PK3.reshape(-1, 3))
        reach = 0.18 * self._scale_P.max() * self.camera.focal / depth.min()
        low, high = np.floor(pixel.min(0) - reach).astype(int), np.ceil(pixel.max(0) + reach).astype(int)
        return max(low[0], 0), max(low[1], 0), min(high[0], self.camera.width), min(high[1], self.camera.height)

    @cached_property
    def _strokes(self) -> list[tuple[int, int, float]]:
        """What throws a shadow: two of the K points, and the radius in metres of what is between them."""
        limbs = [(limb.start, limb.end, (limb.radius_start + limb.radius_end) / 2) for limb in self._body.limbs]
        # The upper half of a round form: blurred, and one above the other, they are as good as whole.
        return limbs + [(form.first, form.first + 2, 0.11) for form in self._body.ellipsoids]

    def _cast_shadows(self, picture: Image.Image, points_PK3: NDArray) -> None:
        """Darken the ground: a wide soft shadow of the whole body, a tight one where a limb is close to the ground."""
        right, forward = self.camera.rotation_33[0, [0, 2]], self.camera.rotation_33[2, [0, 2]]
        lean = SHADOW_RIGHT * right + SHADOW_AWAY * forward / np.linalg.norm(forward)
        height_PK = np.maximum(points_PK3[..., 1] + SOLE, 0)
        spot_PK2 = points_PK3[..., [0, 2]] + height_PK[..., None] * lean
        corner = spot_PK2.min((0, 1)) - _SHADOW_RIM
        extent = spot_PK2.max((0, 1)) + _SHADOW_RIM - corner
        cell = max(_SHADOW_CELL, float(extent.max()) / _SHADOW_CELLS)
        size = int(extent[0] / cell) + 1, int(extent[1] / cell) + 1
        spot_PK2 = (spot_PK2 - corner) / cell
        soft, tight = Image.new("L", size), Image.new("L", size)
        soft_pen, tight_pen = ImageDraw.Draw(soft), ImageDraw.Draw(tight)
        for person in range(len(points_PK3)):
            for start, end, thickness in self._strokes:
                ends = [start, end]
                radius = thickness * self._scale_P[person] / cell
                _stroke(soft_pen, spot_PK2[person, ends], radius, 105)
                near = 1 - height_PK[person, ends].max() / 0.28
                if near > 0:
                    _stroke(tight_pen, spot_PK2[person, ends], radius * 1.25, int(190 * near**0.5))
        soft = soft.filter(ImageFilter.GaussianBlur(0.055 / cell))
        tight = tight.filter(ImageFilter.GaussianBlur(0.022 / cell))
        self._darken(picture, ImageChops.lighter(soft, tight), corner, cell)

    def _darken(self, picture: Image.Image, shadow: Image.Image, corner: NDArray, cell: float) -> None:
        """Lay a map of the ground, cells of ``cell`` metres from ``corner`` on, into the picture as a shadow."""
        camera = self.camera
        edge = np.array([(x, y) for x in (0, shadow.width) for y in (0, shadow.height)]) * cell + corner
        pixel, depth = camera.project(np.stack([edge[:, 0], np.full(4, -SOLE), edge[:, 1]], axis=1))
        if depth.min() <= 0.1 or self._eye_height <= 0:
            return
        left, top = np.clip(np.floor(pixel.min(0)), 0, picture.size).astype(int)
        right, bottom = np.clip(np.ceil(pixel.max(0)), 0, picture.size).astype(int)
        # A shadow has no detail finer than two pixels: half the resolution is drawn and enlarged.
        size = int(right - left) // 2, int(bottom - top) // 2
        if min(size) < 1:
            return
        # A pixel's ray meets the ground at eye + height * ray / -down: a projective map from pixels to cells.
        x_axis, y_axis = 2 * camera.rotation_33[0] / camera.focal, 2 * camera.rotation_33[1] / camera.focal
        first = camera.rotation_33[2] + x_axis * (left - camera.width / 2) / 2 + y_axis * (top - camera.height / 2) / 2
        ray_33 = np.stack([x_axis, y_axis, first], axis=1)
        height, start = self._eye_height, camera.eye_3[[0, 2]] - corner
        rows = [(height * ray_33[axis] - start[n] * ray_33[1]) / cell for n, axis in enumerate((0, 2))]
        homography = np.stack([*rows, -ray_33[1]]) / -ray_33[1, 2]
        coefficients = tuple(homography.reshape(-1)[:8].tolist())
        mask = shadow.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        mask = mask.resize((2 * size[0], 2 * size[1]), Image.Resampling.BILINEAR)
        picture.paste(SHADOW, (int(left), int(top)), mask)


def _stroke(pen: ImageDraw.ImageDraw, ends: NDArray, radius: float, value: int) -> None:
    """A thick line with round ends; ``ends`` [2, 2] in cells."""
    if np.abs(ends[1] - ends[0]).max() > 1:
        pen.line([*ends[0], *ends[1]], fill=value, width=max(round(2 * radius), 1))
    for x, y in ends:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=value)
