"""Where in a YAML file a value stands, so that an error can name its line."""

from collections.abc import Iterator
from pathlib import Path

import yaml

Keys = tuple[str, ...]


class Lines:
    r"""The lines of a YAML file's keys.

    Example:
        >>> lines = Lines(Path("a.yaml"), "seed: 1\nmoe:\n  experts: 4\nset: {moe.c_exp: 2}")
        >>> lines.place("moe", "experts"), lines.place("set", "moe", "c_exp"), lines.place("moe", "none")
        ('a.yaml:3', 'a.yaml:4', 'a.yaml:2')
        >>> lines.leaves("set")
        ['moe.c_exp']
    """

    def __init__(self, file: Path, text: str) -> None:
        """Look through the text of a file that ``read_mapping`` has read: no key is there twice, no value in itself."""
        self._file = file
        self._root: yaml.Node = yaml.compose(text, Loader=yaml.SafeLoader) or yaml.MappingNode("", [])

    def place(self, *path: str | int) -> str:
        """File and line of the key that the path leads to, as far as it leads; a key may be dotted in the file."""
        _, line = self._find(self._root, tuple(map(str, path)), 0, 0)
        return f"{self._file}:{line + 1}"

    def leaves(self, *path: str | int) -> list[str]:
        """The dotted names of the single values below what the path leads to, if it leads to something."""
        nodes = [self._root]
        for part in path:
            nodes = [value for node in nodes for key, _, value in _children(node) if key == str(part)]
        return [leaf for node in nodes for leaf in _leaves(node, "")]

    def _find(self, node: yaml.Node, path: Keys, line: int, depth: int) -> tuple[int, int]:
        """How far the path leads, and to which line."""
        found = [(depth, line)]
        for key, at, value in _children(node):
            forms = {(key,), tuple(key.split("."))}
            fitting = [len(parts) for parts in forms if path[: len(parts)] == parts]
            found += [self._find(value, path[length:], at, depth + length) for length in fitting]
        return max(found, key=lambda one: one[0])


def _children(node: yaml.Node) -> Iterator[tuple[str, int, yaml.Node]]:
    """Key, line and value of each entry of a mapping or a sequence."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield str(number), value.start_mark.line, value


def _leaves(node: yaml.Node, prefix: str) -> Iterator[str]:
    for key, _, value in _children(node):
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
