"""BVH files: the text format, its tree of joints and its channels, and where the joints are.

Legend: T frames, C channels of all joints, N points (joints and end sites), K chosen points.

What the format leaves open is read as Blender and most exporters do: position channels hold the joint's place in its
parent and *replace* its OFFSET (for the root: its place in the world), and a joint's rotation is the product of its
rotation channels in the order in which they are listed. Angles are degrees; lengths have no unit.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain

import torch
from torch import Tensor

from intermoe.body.rotations import matrix_from_euler
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.text_files import read_text
from intermoe.places import Place

# Frames per second that a file may have. Below, its frame time is a rate or in milliseconds (30, 33.3); above, no
# system records whole bodies.
RATES = (5.0, 1000.0)
_WORD = re.compile(r"[{}]|[^\s{}]+")
_CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}


@dataclass(frozen=True)
class Bvh:
    """One parsed file.

    Attributes:
        names: of the N points, with blanks where the file has some; an End Site is called ``<joint>_end``.
        parents: number of each point's parent, -1 for the root; a parent comes before its children.
        offset_N3: float64, place of each point in its parent in the zero pose.
        channels: for each point the names of its channels, such as "Xposition", "Zrotation"; none for an end site.
        fps: frames per second; whole where the frame time is a whole rate, rounded to the digits that were written.
        motion_TC: float64, the channels of all points in the order of ``names``; not all need be finite.
        notes: what was put right while reading.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offset_N3: Tensor
    channels: tuple[tuple[str, ...], ...]
    fps: float
    motion_TC: Tensor
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return len(self.motion_TC)

    def within(self, points: Iterable[str]) -> "Bvh":
        """The file with every number of these points finite; what other joints hold is 0 where it is not.

        Raises:
            BadRecording: a number on which the place of one of the points depends is not finite.
        """
        if self.motion_TC.isfinite().all():
            return self
        needed: set[int] = set()
        for name in points:
            point = self.names.index(name)
            while point >= 0:
                needed.add(point)
                point = self.parents[point]
        columns = [(point, channel) for point, channels in enumerate(self.channels) for channel in channels]
        unused: list[str] = []
        for frame, column in (~self.motion_TC.isfinite()).nonzero().tolist():
            point, channel = columns[column]
            if point in needed:
                value = float(self.motion_TC[frame, column])
                raise BadRecording(f"{channel} of {self.names[point]!r} is {value} in frame {frame}")
            unused.append(self.names[point])
        joints = ", ".join(dict.fromkeys(unused))
        note = f"numbers that are not finite in joints that the mapping does not name: {joints}"
        return replace(self, motion_TC=self.motion_TC.nan_to_num(0, 0, 0), notes=(*self.notes, note))

    def at(self, frame: int) -> "Bvh":
        """The file cut to one of its frames."""
        return replace(self, motion_TC=self.motion_TC[frame : frame + 1])

    def local_pose(self) -> tuple[Tensor, Tensor]:
        """Place in the parent [T, N, 3] and rotation relative to the parent [T, N, 3, 3] of every point."""
        offset_TN3 = self.offset_N3.repeat(self.frames, 1, 1)
        rotation_TN33 = torch.eye(3, dtype=torch.float64).repeat(self.frames, len(self.names), 1, 1)
        turning: dict[str, list[tuple[int, list[int]]]] = {}
        column = 0
        for point, channels in enumerate(self.channels):
            columns: list[int] = []
            order = ""
            for channel in channels:
                if channel.endswith("position"):
                    offset_TN3[:, point, "XYZ".index(channel[0])] = self.motion_TC[:, column]
                else:
                    order += channel[0]
                    columns.append(column)
                column += 1
            if order:
                turning.setdefault(order, []).append((point, columns))
        # Joints that share an order of axes are turned together: one batch of products instead of one per joint.
        for order, joints in turning.items():
            points = [point for point, _ in joints]
            angle_TK = self.motion_TC[:, [columns for _, columns in joints]]
            rotation_TN33[:, points] = matrix_from_euler(angle_TK, order)
        return offset_TN3, rotation_TN33


def global_pose(offset_TN3: Tensor, rotation_TN33: Tensor, parents: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Place [T, N, 3] and rotation [T, N, 3, 3] in the world of points given relative to their parents."""
    place: list[Tensor] = []
    turn: list[Tensor] = []
    for point, parent in enumerate(parents):
        offset_T3, rotation_T33 = offset_TN3[:, point], rotation_TN33[:, point]
        if parent >= 0:
            offset_T3 = place[parent] + (turn[parent] @ offset_T3[..., None]).squeeze(-1)
            rotation_T33 = turn[parent] @ rotation_T33
        place.append(offset_T3)
        turn.append(rotation_T33)
    return torch.stack(place, dim=1), torch.stack(turn, dim=1)


def parse_bvh(path: Place, fps: float | None = None) -> Bvh:
    """Read one BVH file.

    Any order of channels, position channels on any joint, blanks in names, tabs, CRLF and blank lines are understood.
    Where the header promises another number of frames than the file holds, those that are there are read.

    Args:
        path: of the file.
        fps: frames per second, where the file's frame time is wrong.

    Raises:
        BadRecording: the file cannot be read or is not valid; the reason names the file and the line.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> text = '''HIERARCHY
        ... ROOT hip
        ... { OFFSET 0 0 0
        ...   CHANNELS 4 Xposition Yposition Zposition Yrotation
        ...   End Site
        ...   { OFFSET 0 1 0 } }
        ... MOTION
        ... Frames: 1
        ... Frame Time: 0.0333333
        ... 0 2 0 90
        ... '''
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.bvh"
        ...     _ = file.write_text(text)
        ...     bvh = parse_bvh(file)
        >>> bvh.names, bvh.fps
        (('hip', 'hip_end'), 30.0)
        >>> global_pose(*bvh.local_pose(), bvh.parents)[0].tolist()
        [[[0.0, 2.0, 0.0], [0.0, 3.0, 0.0]]]
    """
    try:
        text = read_text(path, errors="replace")
    except OSError as error:
        raise BadRecording(f"cannot be read ({error.strerror or error})", where=path.name) from None
    if "\0" in text:
        raise BadRecording("is not text, or UTF-16 without a byte order mark; UTF-8 is read", where=path.name)
    return _Parser(path.name, text).parse(fps)


class _Parser:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.split("\n")
        self.taken = ""  # the word that was taken last
        self.line = 0  # counted from 1; the line of the word that was taken last
        self.start = 0  # where that word begins in its line
        self.words = self._words()
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[list[float]] = []
        self.channels: list[tuple[str, ...]] = []

    def _words(self) -> Iterator[str]:
        for number, line in enumerate(self.lines, start=1):
            for word in _WORD.finditer(line):
                self.line, self.start = number, word.start()
                yield word.group()

    def _bad(self, reason: str, line: int | None = None) -> BadRecording:
        return BadRecording(reason, where=f"{self.name}, line {self.line if line is None else line}")

    def _word(self, wanted: str) -> str:
        word = next(self.words, None)
        if word is None:
            raise self._bad(f"the file ends where {wanted} should follow")
        self.taken = word
        return word

    def _expect(self, *words: str) -> None:
        for wanted in words:
            if (word := self._word(wanted)).upper() != wanted.upper():
                raise self._bad(f"{word!r} instead of {wanted!r}")

    def _joint_name(self, what: str) -> str:
        """The rest of the line, up to a brace."""
        self._word(what)
        name = self.lines[self.line - 1][self.start :].split("{")[0].strip()
        if not name:
            raise self._bad(f"'{{' instead of {what}")
        for _ in _WORD.findall(name)[1:]:
            next(self.words)
        return name

    def _skip_name(self) -> None:
        """Some exporters name an End Site; the name is the rest of its line, up to a brace."""
        rest = self.lines[self.line - 1][self.start + len("Site") :].split("{")[0]
        for _ in _WORD.findall(rest):
            next(self.words)

    def _number(self, what: str) -> float:
        word = self._word(what)
        try:
            value = _float(word)
        except ValueError:
            raise self._bad(f"{word!r} is not a number ({what})") from None
        if not math.isfinite(value):
            raise self._bad(f"{what} is {word}")
        return value

    def _count(self, what: str, least: int) -> int:
        word = self._word(what)
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) >= least):
            raise self._bad(f"{what} is {word!r}, not a whole number from {least} up")
        return int(word)

    def parse(self, fps: float | None) -> Bvh:
        self._expect("HIERARCHY")
        self._expect("ROOT")
        self._tree()
        if (word := self._word("'MOTION'")).upper() == "ROOT":
            raise self._bad("a second ROOT: one file per person is read")
        if word.upper() != "MOTION":
            raise self._bad(f"{word!r} instead of 'MOTION'")
        self._expect("Frames:")
        promised = self._count("number of frames", 0)
        self._expect("Frame", "Time:")
        frame_time = self._number("frame time")
        if fps is None:
            fps = self._rate(frame_time, self.taken)
        motion_TC = self._motion()
        notes = []
        if len(motion_TC) != promised:
            notes.append(f"the header promises {promised} frames, the file holds {len(motion_TC)}")
        return Bvh(
            names=tuple(self.names),
            parents=tuple(self.parents),
            offset_N3=torch.tensor(self.offsets, dtype=torch.float64),
            channels=tuple(self.channels),
            fps=fps,
            motion_TC=motion_TC,
            notes=tuple(notes),
        )

    def _rate(self, frame_time: float, written: str) -> float:
        rate = _whole_rate(frame_time, written) if frame_time > 0 else 0.0
        if not RATES[0] <= rate <= RATES[1]:
            raise self._bad(
                f"Frame Time {written} is {rate:.3g} frames per second; allowed: {RATES[0]:g} to {RATES[1]:g}; "
                "`--fps` states the rate"
            )
        return rate

    def _tree(self) -> None:
        """Everything from the root's name to its closing brace; a loop, since a file may nest as deep as it likes."""
        stack = [self._open(self._joint_name("the root's name"), -1)]
        while stack:
            word = self._word("a joint or '}'")
            if word == "}":
                stack.pop()
            elif word.upper() == "JOINT":
                stack.append(self._open(self._joint_name("a joint's name"), stack[-1]))
            elif word.upper() == "END":
                self._expect("Site")
                self._skip_name()
                self._open(f"{self.names[stack[-1]]}_end", stack[-1], end=True)
                self._expect("}")
            elif word.upper() == "ROOT":
                raise self._bad("a root inside a joint")
            else:
                raise self._bad(f"{word!r} instead of JOINT, End Site or '}}'")

    def _open(self, name: str, parent: int, *, end: bool = False) -> int:
        if name in self.names:
            raise self._bad(f"a second point is called {name!r}")
        self._expect("{", "OFFSET")
        offset = [self._number("offset") for _ in range(3)]
        channels: list[str] = []
        if not end:
            self._expect("CHANNELS")
            for _ in range(self._count("number of channels", 0)):
                channel = self._word("a channel").capitalize()
                if channel not in _CHANNELS or channel in channels:
                    reason = "is listed twice" if channel in channels else "is not a channel"
                    raise self._bad(f"{channel!r} {reason}")
                channels.append(channel)
        self.names.append(name)
        self.parents.append(parent)
        self.offsets.append(offset)
        self.channels.append(tuple(channels))
        return len(self.names) - 1

    def _motion(self) -> Tensor:
        """The numbers below the frame time [T, C], one frame per line."""
        width = sum(map(len, self.channels))
        rows: list[list[str]] = []
        numbers: list[int] = []
        for number, line in enumerate(self.lines[self.line :], start=self.line + 1):
            row = line.split()
            if not row:
                continue
            if len(row) != width:
                raise self._bad(f"{len(row)} numbers instead of {width}", number)
            rows.append(row)
            numbers.append(number)
        if not rows:
            raise self._bad("no frames follow", len(self.lines))
        try:
            values = list(map(_float, chain.from_iterable(rows)))
        except ValueError:
            self._blame(rows, numbers)
            raise
        return torch.tensor(values, dtype=torch.float64).reshape(len(rows), width)

    def _blame(self, rows: list[list[str]], numbers: list[int]) -> None:
        for row, number in zip(rows, numbers, strict=True):
            for word in row:
                try:
                    _float(word)
                except ValueError:
                    raise self._bad(f"{word!r} is not a number", number) from None


def _float(word: str) -> float:
    """The number that a word is; Python's own underscores between digits are damage in a file."""
    if "_" in word:
        raise ValueError(word)
    return float(word)


def _whole_rate(frame_time: float, written: str) -> float:
    """Frames per second; whole where a whole rate has this frame time to the digits written: 0.008333 is 120.

    Files write few digits; resampling at the literal rate would blend neighbouring frames where none need be blended.
    """
    rate = 1 / frame_time
    digits = -int(Decimal(written).as_tuple().exponent)
    whole = max(round(rate), 1)
    return float(whole) if abs(1 / whole - frame_time) < 10.0**-digits else rate
