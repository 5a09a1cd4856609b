"""A pinhole camera that stands still and sees all people during the whole of a motion.

Legend: T frames, P persons, J joints, N bodies. World: metres, y up. View: x right, y down, z away from the camera.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton

_FIELD_OF_VIEW = np.deg2rad(28.0)
_ELEVATION = np.deg2rad(14.0)
# How far a body reaches beyond its joints: half a head to the sides, a whole one above.
_FLESH = 0.16
_SKULL = 0.26


@dataclass(frozen=True)
class Margins:
    """Pixels at the four edges of the picture that no body may enter."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Camera:
    """A camera: its place, and its map from the world to pixels.

    Attributes:
        eye_3: position in metres.
        rotation_33: rows are the directions right, down and forward of the picture in the world.
        focal: focal length in pixels.
        width: of the picture, pixels; its centre is (width / 2, height / 2).
        height: of the picture, pixels.
    """

    eye_3: NDArray[np.float64]
    rotation_33: NDArray[np.float64]
    focal: float
    width: int
    height: int

    def project(self, point: NDArray) -> tuple[NDArray, NDArray]:
        """Pixels [..., 2] and depths [...] in metres along the view of world points [..., 3].

        Example:
            >>> camera = Camera(np.array([0.0, 1.0, 5.0]), np.diag([1.0, -1.0, -1.0]), 500.0, 960, 540)
            >>> pixel, depth = camera.project(np.array([1.0, 2.0, 0.0]))
            >>> pixel.tolist(), depth.tolist()
            ([580.0, 170.0], 5.0)
        """
        view = (point - self.eye_3) @ self.rotation_33.T
        depth = view[..., 2]
        centre = np.array([self.width / 2, self.height / 2])
        return centre + self.focal * view[..., :2] / depth[..., None], depth

    def rays(self, scale: int = 1) -> NDArray[np.float32]:
        """Direction in the world of each pixel's ray, one metre deep [height * scale, width * scale, 3]."""
        x = ((np.arange(self.width * scale) + 0.5) / scale - self.width / 2) / self.focal
        y = ((np.arange(self.height * scale) + 0.5) / scale - self.height / 2) / self.focal
        right, down, forward = self.rotation_33.astype(np.float32)
        return forward + x[None, :, None].astype(np.float32) * right + y[:, None, None].astype(np.float32) * down

    def moved(self, by_3: NDArray) -> "Camera":
        """The same camera, shifted by a vector of the world, metres."""
        return replace(self, eye_3=self.eye_3 + by_3)


def framing_camera(joints_NJ3: NDArray, azimuth: float, width: int, height: int, margins: Margins) -> Camera:
    """The nearest camera on one side that has all joints, with flesh around them, between the margins.

    Args:
        joints_NJ3: joints of all bodies and frames to be seen, metres.
        azimuth: side on which the camera stands, radians; 0 looks from +z, pi / 2 from +x.
        width: of the picture, pixels.
        height: of the picture, pixels.
        margins: pixels to leave free.
    """
    toward = np.array([np.sin(azimuth) * np.cos(_ELEVATION), np.sin(_ELEVATION), np.cos(azimuth) * np.cos(_ELEVATION)])
    right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
    rotation_33 = np.stack([right, np.cross(-toward, right), -toward])
    focal = height / 2 / np.tan(_FIELD_OF_VIEW / 2)
    x, y, z = np.moveaxis(joints_NJ3.reshape(-1, 3).astype(np.float64) @ rotation_33.T, -1, 0)

    def fit(low: NDArray, high: NDArray, low_slope: float, high_slope: float) -> tuple[float, float, float]:
        """Farthest place along z that sees everything in one direction, and what bounds the place across."""
        above, below = (high - high_slope * z).max(), (-low - low_slope * z).max()
        return -(above + below) / (low_slope + high_slope), above, below

    slopes_x = (width / 2 - margins.left) / focal, (width / 2 - margins.right) / focal
    slopes_y = (height / 2 - margins.top) / focal, (height / 2 - margins.bottom) / focal
    eye_zx, above_x, below_x = fit(x - _FLESH, x + _FLESH, *slopes_x)
    eye_zy, above_y, below_y = fit(y - _SKULL, y + _FLESH / 2, *slopes_y)
    eye_z = min(eye_zx, eye_zy)
    eye_x = (above_x + slopes_x[1] * eye_z - below_x - slopes_x[0] * eye_z) / 2
    eye_y = (above_y + slopes_y[1] * eye_z - below_y - slopes_y[0] * eye_z) / 2
    return Camera(np.array([eye_x, eye_y, eye_z]) @ rotation_33, rotation_33, focal, width, height)


def best_azimuth(joints_TPJ3: NDArray, skeleton: Skeleton) -> float:
    """Side in radians from which two stand well apart, are seen from in front, and the first one is on the left.

    Of one person, the way gone takes the place of what is between the two.
    """
    joints_TPJ3 = joints_TPJ3.astype(np.float64)
    across = joints_TPJ3[:, :, skeleton.left_hip] - joints_TPJ3[:, :, skeleton.right_hip]
    facing_TP2 = np.stack([-across[..., 2], across[..., 0]], axis=-1)
    facing_TP2 /= np.linalg.norm(facing_TP2, axis=-1, keepdims=True) + 1e-6
    first_T3, last_T3 = joints_TPJ3[:, 0, 0], joints_TPJ3[:, -1, 0]
    between_T2 = (last_T3 - (first_T3 if joints_TPJ3.shape[1] > 1 else first_T3[:1]))[:, [0, 2]]
    between_T2 = between_T2 / (np.linalg.norm(between_T2, axis=-1, keepdims=True) + 0.1)

    def score(azimuth: float) -> float:
        apart_T = between_T2 @ np.array([np.cos(azimuth), -np.sin(azimuth)])
        front = (facing_TP2 @ np.array([np.sin(azimuth), np.cos(azimuth)])).mean()
        # 0.9 rather than 1: a view a quarter turned off the line between them shows depth and both arms.
        return float(0.4 * front - abs(np.abs(apart_T).mean() - 0.9) + 0.1 * np.sign(apart_T.mean()))

    return max(np.deg2rad(np.arange(0.0, 360.0, 5.0)), key=score)
