"""A file system that can be full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory, of a size that can change."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def resize(self, kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", self.root], check=True)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@contextmanager
def small_disk(root: Path) -> Iterator[SmallDisk]:
    """Mount one at a new folder; skips the test where nobody may."""
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", root], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "-l", root], check=True)
