"""Pickles that hold plain values, read without running any: a pickle is a program, and here only a few of its
instructions are known.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from intermoe.places import Place, read_bytes

_MAX_BYTES = 2**26
_MOST_OPCODES = 10_000_000
_DEEPEST, _MOST_VALUES = 10, 4_000_000
_CONSTANTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE"}
)
_SILENT = frozenset({"PROTO", "FRAME"})


class NotPlain(ValueError):
    """The pickle is damaged, or holds something else than dicts, lists, strings and whole numbers."""


def read_plain_pickle(file: Place) -> Any:
    """The value of a pickle of dicts, lists, strings and whole numbers.

    Nothing of it is executed: an instruction that would import, call or build anything ends the reading.

    Args:
        file: the pickle, of any protocol.

    Raises:
        NotPlain: anything else is in it, or it is damaged.
        OSError: it cannot be read.
    """
    content = read_bytes(file)
    if len(content) > _MAX_BYTES:
        raise NotPlain(f"{len(content)} bytes are more than {_MAX_BYTES}")
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if number > _MOST_OPCODES:
                raise NotPlain(f"more than {_MOST_OPCODES} instructions")
            if opcode.name == "STOP":
                return machine.result()
            machine.take(opcode.name, argument)
    except NotPlain:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise NotPlain(f"it is damaged: {' '.join(str(error).split())[:80]}") from None
    raise NotPlain("it is damaged: it has no end")


class _Machine:
    """The stack that instructions work on."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._do: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "DICT": self._dict,
            "LIST": lambda _: self._stack.append(self._since_mark()),
            "SETITEM": lambda _: self._set(self._popped(2)),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "APPEND": lambda _: self._extend(self._popped(1)),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "PUT": self._put,
            "BINGET": self._get,
            "LONG_BINGET": self._get,
            "GET": self._get,
        }

    def take(self, name: str, argument: Any) -> None:
        """Do what one instruction says."""
        if name in _SILENT:
            return
        if name in _CONSTANTS:
            if type(argument) not in (int, str):  # True and False have an instruction of their own, or are INT 01
                raise NotPlain(f"it holds {argument!r}; allowed are dicts, lists, strings and whole numbers")
            self._stack.append(argument)
        elif name in self._do:
            self._do[name](argument)
        else:
            raise NotPlain(f"it holds the instruction {name}; allowed are dicts, lists, strings and whole numbers")

    def result(self) -> Any:
        """The one value that is left."""
        (value,) = self._stack
        _check_depth(value)
        return value

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _popped(self, count: int) -> list[Any]:
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _dict(self, _: Any) -> None:
        values = self._since_mark()
        self._stack.append({})
        self._set(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise NotPlain("it is damaged: items of no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise NotPlain("it holds a key that is neither a string nor a whole number")
            target[key] = value

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise NotPlain("it is damaged: items of no list")
        target += values

    def _put(self, place: int) -> None:
        self._memo[int(place)] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[int(place)])


def _check_depth(value: Any) -> None:
    """Refuse values that are nested deeply or in themselves, or that hold one thing many times."""
    layer = [value]
    for _ in range(_DEEPEST):
        outer = [one for one in layer if isinstance(one, dict | list)]
        if not outer:
            return
        if sum(map(len, outer)) > _MOST_VALUES:
            break
        layer = [inner for one in outer for inner in (one.values() if isinstance(one, dict) else one)]
    raise NotPlain("it is nested too deeply, or holds too much")
