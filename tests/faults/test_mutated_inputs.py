"""Damaged inputs, seeded: each is read, refused in one line or set aside; nothing else, within 10 s and 2 GB."""

import sys

import pytest
from bounded_reading import SOUND, Case, tally
from small_inputs import READERS


def check(count, folder):
    names = list(READERS)
    cases = [Case(names[number % len(names)], number // len(names)) for number in range(count)]
    result = tally(cases, folder)
    assert not result.faults, "\n".join(result.faults)
    assert result.counts.total() == count
    for name in names:
        tried = sum(case.reader == name for case in cases)
        assert sum(result.counts[name, outcome] for outcome in SOUND) == tried
        assert result.counts[name, "read"] < tried
    return result


@pytest.mark.slow
def test_a_damaged_input_is_read_refused_or_set_aside(tmp_path):
    check(300, tmp_path)


@pytest.mark.faults
def test_ten_thousand_damaged_inputs_are_read_refused_or_set_aside(tmp_path, capsys):
    result = check(10_000, tmp_path)
    with capsys.disabled():
        sys.stdout.write(f"\n{result.table()}\n")
