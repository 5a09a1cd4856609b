from typing import Any

import pytest

from intermoe.evaluation.measures import HANDS, MEASURES, PLAUSIBILITY, TABLES, Measure, of_each_motion


def test_every_measure_stands_in_one_table_in_its_order():
    assert [name for names in TABLES.values() for name in names] == list(MEASURES)
    assert all(name == measure.name for name, measure in MEASURES.items())


def test_a_measure_is_taken_in_one_of_two_ways():
    assert list(of_each_motion()) == [*TABLES[HANDS], *TABLES[PLAUSIBILITY]]
    both: Any = {"of_motion": lambda *_: 0.0, "of_replication": lambda _: 0.0}
    for ways in ({}, both):
        with pytest.raises(ValueError, match="size: a measure has either of_motion or of_replication"):
            Measure("size", "Size", "Sizes", **ways)
