"""A command in a pseudo-terminal, and what then stands on the screen."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


def run_in_terminal(command: Sequence[str | Path], folder: Path, columns: int = 160) -> tuple[int, list[str]]:
    """The exit status of a command, and the lines of a screen without end on which it has written."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    written = bytearray()
    try:
        while part := os.read(mine, 2**16):
            written += part
    except OSError:  # so Linux says that nobody holds the other end any more
        pass
    finally:
        os.close(mine)
    return process.wait(), screen(written.decode())


def screen(written: str) -> list[str]:
    """The lines that stand there at the end: text, line ends, moves of the cursor up and down, erased lines.

    Example:
        >>> screen("a: 1\\r\\nb: 1\\x1b[1A\\r\\x1b[2Ka: 2\\r\\n\\x1b[32mb: 2\\x1b[0m")
        ['a: 2', 'b: 2']
    """
    lines, row, column = [""], 0, 0
    for match in _TOKEN.finditer(written):
        count, code = match[1] or "", match[2]
        if code == "A":
            row = max(0, row - int(count or 1))
        elif code == "K":
            lines[row] = "" if count == "2" else lines[row][:column]
        elif match[0] == "\r":
            column = 0
        elif match[0] == "\n" or code == "B":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code is None:
            lines[row] = lines[row][:column].ljust(column) + match[0] + lines[row][column + len(match[0]) :]
            column += len(match[0])
    return [line.rstrip() for line in lines]
