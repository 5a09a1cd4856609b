"""The conventions of every recording and motion: frame rate, shortest length, splits. Metres, y up."""

from typing import Literal

FPS = 30


MIN_FRAMES = 15


SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
