from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from intermoe.config import Config
from intermoe.errors import UserError

KEYS = "width, heads, kind, rates"


class Inner(Config):
    width: int = Field(default=4, ge=1, le=64)
    heads: int = 2
    kind: Literal["soft", "hard"] = "soft"
    rates: tuple[float, float] = (0.5, 0.5)

    @model_validator(mode="after")
    def _even(self):
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not divided by heads = {self.heads}")
        return self


class Outer(Config):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def refused(values) -> str:
    with pytest.raises(UserError) as caught:
        Outer.parse(values, where="a.yaml")
    message = str(caught.value)
    assert message.startswith("a.yaml: ")
    assert "\n" not in message
    return message.removeprefix("a.yaml: ")


def test_values_and_defaults():
    config = Outer.parse({"name": "x", "inner": {"width": 8, "rates": [0.1, 1e-3]}, "maybe": {"heads": 4}})
    assert config.inner == Inner(width=8, rates=(0.1, 1e-3))
    assert config.maybe == Inner(heads=4)
    assert Outer.parse({"name": "x"}).inner == Inner()


def test_a_config_is_frozen_and_its_defaults_are_checked():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 3

    class Wrong(Config):
        width: int = Field(default=0, ge=1)

    with pytest.raises(UserError, match=r"width = 0 \(allowed: greater than or equal to 1\)"):
        Wrong.parse({})


def test_a_resolved_config_parses_back():
    config = Outer.parse({"name": "x", "inner": {"width": 8}})
    assert Outer.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "x", "inner": {"widht": 8}},
            f"unknown key 'inner.widht' (allowed: {KEYS}; did you mean 'inner.width'?)",
        ),
        ({"name": "x", "iner": {}}, "unknown key 'iner' (allowed: name, inner, maybe; did you mean 'inner'?)"),
        (
            {"name": "x", "maybe": {"head": 1}},
            f"unknown key 'maybe.head' (allowed: {KEYS}; did you mean 'maybe.heads'?)",
        ),
        ({"name": "x", "zzz": 1}, "unknown key 'zzz' (allowed: name, inner, maybe)"),
        ({}, "key 'name' is missing"),
        ({"name": 3}, "name = 3 (allowed: a valid string)"),
        ({"name": "x", "inner": 3}, f"inner = 3 (allowed: keys below it: {KEYS})"),
        ({"name": "x", "inner": {"width": 0}}, "inner.width = 0 (allowed: greater than or equal to 1)"),
        ({"name": "x", "inner": {"width": 65}}, "inner.width = 65 (allowed: less than or equal to 64)"),
        (
            {"name": "x", "inner": {"width": 4.5}},
            "inner.width = 4.5 (allowed: a valid integer, got a number with a fractional part)",
        ),
        ({"name": "x", "inner": {"kind": "mild"}}, "inner.kind = 'mild' (allowed: 'soft' or 'hard')"),
        ({"name": "x", "inner": {"rates": [0.5, float("nan")]}}, "inner.rates.1 = nan (allowed: a finite number)"),
        ({"name": "x", "inner": {"rates": [0.5]}}, "key 'inner.rates.1' is missing"),
        ({"name": "x", "inner": {"heads": 3}}, "inner: width = 4 is not divided by heads = 3"),
        ({"name": "x", "\udccb": 1}, r"key '\udccb' (allowed: text in UTF-8)"),
        ({"name": "x", "inner": {1: 1}}, "key 1 (allowed: text in UTF-8)"),
        ({"name": ["x"] * 99}, f"name = {repr(['x'] * 99)[:52]}...{repr(['x'] * 99)[-25:]} (allowed: a valid string)"),
    ],
)
def test_a_mistake_is_told_in_one_line(values, message):
    assert refused(values) == message


def test_a_key_that_belongs_to_another_section_is_found_there():
    assert "did you mean 'maybe.width'?" in refused({"name": "x", "width": 8})
    assert "did you mean 'name'?" in refused({"name": "x", "inner": {"name": 8}})


class Many(Config):
    named: dict[str, Inner] = Field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    numbers: dict[str, tuple[float, float]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message", "key"),
    [
        ({"named": {"a.b": {"width": 0}}}, "named.a.b.width = 0 (allowed: greater than", ("named", "a.b", "width")),
        ({"listed": [{}, {"width": 0}]}, "listed.1.width = 0 (allowed: greater than", ("listed", 1, "width")),
        (
            {"named": {"a": {"widht": 8}}},
            f"unknown key 'named.a.widht' (allowed: {KEYS}; did you mean 'named.a.width'?)",
            ("named", "a", "widht"),
        ),
        ({"listed": [{"kind": "mild"}]}, "listed.0.kind = 'mild' (allowed: 'soft' or 'hard')", ("listed", 0, "kind")),
        ({"numbers": {"x": [1, "two"]}}, "numbers.x.1 = 'two' (allowed: a valid number", ("numbers", "x", 1)),
        ({"named": 3}, "named = 3 (allowed: a valid dictionary", ("named",)),
        ({"named": {"a": 3}}, f"named.a = 3 (allowed: keys below it: {KEYS})", ("named", "a")),
    ],
)
def test_mistakes_inside_mappings_and_sequences_are_told_with_their_keys(values, message, key):
    with pytest.raises(UserError) as caught:
        Many.parse(values)
    assert str(caught.value).startswith(message)
    assert caught.value.key == key
