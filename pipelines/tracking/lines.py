"""The lines of a spool (spool.py): JSON, each with a checksum of what it says."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = "store"
"""Kind of the first line, which names the store."""
DAMAGED = "damaged"
"""Kind of a line that is not as it was written."""
# The path of a file or folder that is kept, in the spool's folder.
_HELD = re.compile(r"[0-9a-f]{32}/(?!\.{1,2}$)[^/\0]+")
NO_LINE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading a damaged line raises."""


@dataclass(frozen=True)
class Entry:
    """A line of a spool.

    Attributes:
        kind: what is to be done, by the name of a method of ``StoreWriter``; or ``DAMAGED``.
        time: when it was logged, in milliseconds since 1970.
        arguments: of the method.
        end: where the next line begins, in bytes.
    """

    kind: str
    time: int
    arguments: dict[str, Any]
    end: int


def entry_of(line: bytes, end: int) -> Entry | None:
    """What a line says; None where it is the first one. What it speaks of lies in the spool's folder."""
    try:
        fields = fields_of(line)
        kind, at = str(fields.pop("kind")), _whole(fields.pop("time"))
        if kind == HEAD:
            return None
        if "held" in fields and not _HELD.fullmatch(fields["held"]):
            raise ValueError("a path out of the folder")
        if kind == "points":
            fields = {
                "step": _whole(fields["step"]),
                "values": {name: float(value) for name, value in fields["values"].items()},
            }
    except NO_LINE:
        return Entry(DAMAGED, 0, {}, end)
    return Entry(kind, at, fields, end)


def _whole(value: Any) -> int:
    """A whole number of 64 bits, which is what stores hold."""
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("too large")
    return number


def line_of(fields: Mapping[str, Any]) -> bytes:
    """A line that says so, with its checksum."""
    return _text({**fields, "crc32": zlib.crc32(_text(fields))}) + b"\n"


def fields_of(line: bytes) -> dict[str, Any]:
    """What stands in a line; raises one of ``NO_LINE`` where it is damaged."""
    fields: dict[str, Any] = json.loads(line)
    if fields.pop("crc32") != zlib.crc32(_text(fields)):
        raise ValueError("another checksum")
    return fields


def _text(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()
