"""Pickles of plain values are read, and nothing in any other is run."""

import os
import pickle
import random
from contextlib import suppress

import pytest

from intermoe.datasets.plain_pickle import NotPlain, read_plain_pickle

VALUE = {f"G{number:03d}T000A000R000": number % 2 for number in range(2000)} | {
    "é": "ü",
    "list": [1, -5, 10**30, {"a": "b"}],
    7: [],
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol_are_read(tmp_path, protocol):
    file = tmp_path / "order.pkl"
    file.write_bytes(pickle.dumps(VALUE, protocol))
    assert read_plain_pickle(file) == VALUE


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "order.pkl").write_bytes(pickle.dumps({"a": Bomb()}, protocol))
    with pytest.raises(NotPlain, match=r"^it holds the instruction \w+; allowed are dicts, lists, strings and whole "):
        read_plain_pickle(tmp_path / "order.pkl")
    assert [file.name for file in tmp_path.iterdir()] == ["order.pkl"]


@pytest.mark.parametrize(
    ("value", "instruction"),
    [(True, "NEWTRUE"), (1.5, "BINFLOAT"), (None, "NONE"), ((1, 2), "TUPLE2"), (b"x", "SHORT_BINBYTES")],
)
def test_other_values_are_refused_by_name(tmp_path, value, instruction):
    (tmp_path / "order.pkl").write_bytes(pickle.dumps({"a": value}))
    message = f"^it holds the instruction {instruction}; allowed are dicts, lists, strings and whole numbers$"
    with pytest.raises(NotPlain, match=message):
        read_plain_pickle(tmp_path / "order.pkl")


def test_a_value_in_itself_and_one_that_unfolds_to_billions_are_refused(tmp_path):
    itself: list = []
    itself.append(itself)
    unfolding: list = []
    for _ in range(9):
        unfolding = [unfolding] * 100
    wide: list = []
    wide += [wide] * 3000
    for value in (itself, unfolding, wide):
        (tmp_path / "order.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(NotPlain, match=r"^it is nested too deeply, or holds too much$"):
            read_plain_pickle(tmp_path / "order.pkl")


def test_damage_is_told_and_never_another_error(tmp_path):
    whole, random_ = pickle.dumps({"a": 1, "b": [1, "two"]}), random.Random(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        if random_.random() < 0.3:
            damaged = damaged[: random_.randrange(len(damaged))]
        (tmp_path / "order.pkl").write_bytes(damaged)
        with suppress(NotPlain):
            assert isinstance(read_plain_pickle(tmp_path / "order.pkl"), dict | list | str | int)
