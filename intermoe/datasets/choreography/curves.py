"""Curves over time that movements are made of: eased ramps, key frames, walking glides, slow random sway.

Legend: T frames. Times are frame numbers and need not be whole.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def ease(progress: Array) -> Array:
    """Minimum-jerk progress: 0 below 0, 1 above 1, at rest at both ends.

    Example:
        >>> ease(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist()
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    u = np.clip(progress, 0.0, 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


def ramp(frames: int, start: float, end: float) -> Array:
    """From 0 before ``start`` to 1 after ``end``, eased [T]."""
    return ease((np.arange(frames, dtype=float) - start) / (end - start))


def pulse(frames: int, start: float, up: float, down: float, end: float) -> Array:
    """From 0 at ``start`` to 1 between ``up`` and ``down`` and back to 0 at ``end``, eased [T]."""
    return ramp(frames, start, up) * (1.0 - ramp(frames, down, end))


def keys(frames: int, *pairs: tuple[float, ArrayLike]) -> Array:
    """Eased from key to key: ``(time, value)`` in order of time; values are numbers [T] or vectors [T, n].

    Example:
        >>> keys(5, (1, 0.0), (3, 2.0)).tolist()
        [0.0, 0.0, 1.0, 2.0, 2.0]
    """
    time = np.array([pair[0] for pair in pairs], dtype=float)
    value = np.array([pair[1] for pair in pairs], dtype=float)
    now = np.arange(frames)
    key = np.clip(np.searchsorted(time, now, side="right") - 1, 0, len(time) - 2)
    progress = ease((now - time[key]) / (time[key + 1] - time[key]))
    if value.ndim == 2:
        progress = progress[:, None]
    return value[key] + (value[key + 1] - value[key]) * progress


def smooth(value_T: Array, width: int) -> Array:
    """Average under a raised-cosine window of ``width`` frames; the ends are held [T] or [T, n]."""
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    before, after = width // 2, width - 1 - width // 2
    padded = np.pad(value_T, [(before, after)] + [(0, 0)] * (value_T.ndim - 1), mode="edge")
    if value_T.ndim == 1:
        return np.convolve(padded, window, mode="valid")
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=-1)


def glide(frames: int, start: float, end: float, width: int = 13) -> Array:
    """From 0 to 1 at constant speed with soft ends, as a walk goes [T]; moves from about ``start`` to ``end``."""
    margin = width / 3
    line = np.clip((np.arange(frames) - start - margin) / (end - start - 2 * margin), 0.0, 1.0)
    return smooth(line, width)


def along_arc(run_T: Array, curvature: float, lead_in: float = 0.0) -> tuple[Array, Array]:
    """Place [T, 2] and yaw [T] after ``run_T`` metres along a path that is straight before 0 and then an arc."""
    on_arc = np.maximum(run_T, 0.0)
    yaw = curvature * smooth(on_arc, 9)
    safe = curvature if abs(curvature) > 1e-6 else 1e-6
    turn = safe * on_arc
    x, z = (1 - np.cos(turn)) / safe, np.sin(turn) / safe + np.minimum(run_T, 0.0)
    return np.stack([x, z + lead_in], axis=-1), yaw


def gate(frames: int, lead: float = 12.0) -> Array:
    """Zero in the first and the last frame, one in between: fades what must not disturb the resting stance [T]."""
    return pulse(frames, 0, lead, frames - 1 - lead, frames - 1)


def sway(
    random: np.random.Generator, frames: int, amplitude: float, hertz: Sequence[float] = (0.25, 0.6, 1.1)
) -> Array:
    """Slow random wandering about 0 [T], of about that amplitude, slower parts larger."""
    seconds = np.arange(frames) / 30.0
    total = np.zeros(frames)
    for number, base in enumerate(hertz):
        rate, phase, size = base * random.uniform(0.8, 1.25), random.uniform(0, 2 * np.pi), random.uniform(0.5, 1.0)
        total += size / (1 + number) * np.sin(2 * np.pi * rate * seconds + phase)
    return amplitude * total / 1.5
