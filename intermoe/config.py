"""The strict base of every configuration class.

A config class stands beside what it configures (``VaeConfig`` in vae.py); this file holds only what they share.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Self, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from intermoe.errors import UserError, shortened

_LONGEST_INPUT = 80  # of a value that is repeated in a message


class Config(BaseModel):
    """A frozen set of named values: unknown keys are refused, types and ranges are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: object = None) -> Self:
        """Build the config from plain values.

        Args:
            values: nested mapping as read from YAML or JSON.
            where: what to name as the source in an error (a file, a preset).

        Raises:
            UserError: one line that names the key, its value, what is allowed and, for an unknown key, the nearest one.

        Example:
            >>> class Sizes(Config):
            ...     width: int = 4
            >>> Sizes.parse({"widht": 8}, where="a.yaml")
            Traceback (most recent call last):
                ...
            intermoe.errors.UserError: a.yaml: unknown key 'widht' (allowed: width; did you mean 'width'?)
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explain(cls, error, where) from None


def _explain(config: type[Config], error: ValidationError, where: object) -> UserError:
    errors = error.errors()
    first = errors[0]
    at = first["loc"]
    path = [str(part) for part in at]
    key = shortened(".".join(path), _LONGEST_INPUT)
    if first["type"] == "invalid_key" or (first["type"] == "string_unicode" and _fields_at(config, path)):
        # Such as a number, or half a character, for which pydantic names the section alone.
        return UserError(f"key {_repeated(first['input'])}", where=where, allowed="text in UTF-8", key=at)
    if first["type"] == "extra_forbidden":
        known = list(_fields_at(config, path[:-1]))
        nearest = _nearest(config, path, known)
        allowed = ", ".join(known) + (f"; did you mean {nearest!r}?" if nearest else "")
        return UserError(f"unknown key {key!r}", where=where, allowed=allowed, key=at)
    if first["type"] == "missing":
        return UserError(f"key {key!r} is missing", where=where, key=at)
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if first["type"] == "model_type":
        message = f"keys below it: {', '.join(_fields_at(config, path))}"
    elif first["type"] == "value_error" and isinstance(first["input"], Mapping):
        # A rule that ties several keys of a section together: the message names them.
        return UserError(f"{key}: {message}" if key else message, where=where, key=at)
    elif not _step_kinds(_kinds_at(config, path[:-1]), path[-1]):
        # A field that may be of several kinds: there is an error for each, below the field under the kind's name.
        kinds = [other["msg"] for other in errors if other["loc"][:-1] == at[:-1]]
        key, message = ".".join(path[:-1]), " or ".join(text.removeprefix("Input should be ") for text in kinds)
        at = at[:-1]
    return UserError(f"{key} = {_repeated(first['input'])}", where=where, allowed=message, key=at)


def _repeated(value: Any) -> str:
    return shortened(repr(value), _LONGEST_INPUT)


def _nearest(config: type[Config], path: list[str], known: list[str]) -> str | None:
    """The key most like the unknown one: in its own section, else of such a name in any section."""
    if near := get_close_matches(path[-1], known, n=1):
        return ".".join([*path[:-1], near[0]])
    elsewhere = {key.rpartition(".")[2]: key for key in _keys(config)}
    near = get_close_matches(path[-1], elsewhere, n=1)
    return elsewhere[near[0]] if near else None


def _keys(config: type[Config], prefix: str = "") -> Iterator[str]:
    """All keys of the config and of those in it, dotted."""
    for name, field in config.model_fields.items():
        yield prefix + name
        for kind in _one_by_one(field.annotation):
            if _is_config(kind):
                yield from _keys(kind, f"{prefix}{name}.")


def _fields_at(config: type[Config], path: list[str]) -> Mapping[str, Any]:
    """The fields of the config that ``path`` leads to from ``config``; none where it leads to no config."""
    kinds = _kinds_at(config, path)
    return next((kind.model_fields for kind in kinds if _is_config(kind)), {})


def _kinds_at(config: type[Config], path: list[str]) -> list[Any]:
    """The types that a value may have at ``path``."""
    kinds: list[Any] = [config]
    for part in path:
        kinds = _step_kinds(kinds, part)
    return kinds


def _step_kinds(kinds: list[Any], part: str) -> list[Any]:
    """The types that a value may have one step further: a field, a key of a mapping, a place in a sequence."""
    found: list[Any] = []
    for kind in kinds:
        origin, inner = get_origin(kind), get_args(kind)
        if _is_config(kind):
            found += _one_by_one(kind.model_fields[part].annotation) if part in kind.model_fields else []
        elif origin is dict:
            found += _one_by_one(inner[1])
        elif origin is tuple and part.isdecimal():
            found += _one_by_one(
                inner[0] if len(inner) == 2 and inner[1] is ... else inner[min(int(part), len(inner) - 1)]
            )
    return found


def _one_by_one(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without what is said of their ranges."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _is_config(kind: Any) -> TypeGuard[type[Config]]:
    return isinstance(kind, type) and issubclass(kind, Config)
