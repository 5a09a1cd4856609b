"""The one way to read YAML: whatever the text holds, the answer is plain values of bounded size, or one line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from intermoe.errors import UserError
from intermoe.places import read_bytes

MAX_CHARACTERS = 200_000
MAX_DEPTH = 32
MAX_VALUES = 10_000
_MAX_BYTES = 4 * MAX_CHARACTERS
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


def read_mapping(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a YAML file and the keys and values that it holds.

    Raises:
        UserError: no such file, one that cannot be read, is not YAML, or holds no keys.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"has {path.stat().st_size} bytes", where=path, allowed=f"up to {_MAX_BYTES} of YAML")
        text = read_bytes(path).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError("no such file", where=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not valid YAML: {error}", where=path, allowed="text in UTF-8") from None
    return text, mapping_in(text, path)


def mapping_in(text: str, where: object) -> dict[str, Any]:
    """The keys and values that a text holds.

    Args:
        text: of a YAML file.
        where: what to name as the source in an error.

    Raises:
        UserError: not YAML, or no keys.
    """
    values = values_in(text, where)
    if not isinstance(values, dict):
        raise UserError("holds no keys", where=where)
    return values


def values_in(text: str, where: object = None) -> Any:
    r"""The plain values that a text holds: numbers, strings, lists, mappings.

    Args:
        text: YAML.
        where: what to name as the source in an error; the line is added.

    Raises:
        UserError: not YAML; too long, nested too deeply, or with more values than a person would write.

    Example:
        >>> values_in("seed: 1\nmoe: {experts: 4}")
        {'seed': 1, 'moe': {'experts': 4}}
        >>> values_in("a:\n  - !!int x", "a.yaml")
        Traceback (most recent call last):
            ...
        intermoe.errors.UserError: a.yaml:2: not valid YAML: 'x' does not fit its type (!!int)
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"has {len(text)} characters", where=where, allowed=f"up to {MAX_CHARACTERS} of YAML")
    try:
        # The events come one by one, whatever the text is; only what is small enough becomes values.
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), where)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        place = _place(where, error.problem_mark or error.context_mark)
        context = "" if (error.context or "while").startswith("while") else f"{error.context}, "
        raise UserError(f"not valid YAML: {context}{error.problem}", where=place) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=where) from None


class _Loader(yaml.SafeLoader):
    """The safe loader, with an error of YAML's own for a value that its type refuses, whatever Python raises.

    A key that is given twice is an error too: the last one would count, and the first be lost without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, f"key {key.value[:40]!r} is given twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            kind = node.tag.replace("tag:yaml.org,2002:", "!!")
            text = f"{node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else "a value"
            problem = f"{text} does not fit its type ({kind})"
            raise ConstructorError(None, None, problem, node.start_mark) from None


def _check_size(events: Iterator[yaml.Event], where: object) -> None:
    """Raise where the values are nested too deeply, hold themselves, or are too many with all aliases written out."""
    total = 0
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # name of each collection that is not closed, and what came before it
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == name for name, _ in open_nodes):
                raise UserError("a value holds itself", where=_place(where, event.start_mark))
            total += sizes.get(str(event.anchor), 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > MAX_DEPTH:
                allowed = f"{MAX_DEPTH} lists and mappings in each other"
                raise UserError("is nested too deeply", where=_place(where, event.start_mark), allowed=allowed)
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_nodes.pop()
            if name is not None:
                sizes[name] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if _HALF_CHARACTER.search(event.value):
                raise UserError("holds half a character (a surrogate)", where=_place(where, event.start_mark))
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > MAX_VALUES:
            allowed = f"{MAX_VALUES}, aliases (*name) written out"
            raise UserError("holds too many values", where=_place(where, event.start_mark), allowed=allowed)


def _place(where: object, mark: Any) -> object:
    if mark is None:
        return where
    return f"line {mark.line + 1}" if where is None else f"{where}:{mark.line + 1}"
