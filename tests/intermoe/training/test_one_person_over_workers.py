"""The networks of one person learn the same alone and on two workers, in micro-batches, and after an interruption.

With the project's own steps and samples.
"""

import pytest
import torch
from key_biases import without_key_bias
from one_person import write_solo_shards
from one_person_training import MICRO_BATCHES, TARGETS, Outcome, Target, train, train_as_two

pytestmark = pytest.mark.slow

each_target = pytest.mark.parametrize("target", TARGETS, ids="-".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 20, "val": 5}).path)


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[Target, Outcome]:
    """Whole batches at once; but the pool of expert choice is a micro-batch."""
    return {t: train(t, folder, accumulate=parts(t)) for t in TARGETS}


def parts(target: Target) -> int:
    return MICRO_BATCHES if target[2] == "expert_choice" else 1


@pytest.fixture(scope="module")
def of_two(folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Target, Outcome]]:
    return train_as_two(folder, tmp_path_factory.mktemp("two"))


@each_target
def test_two_workers_with_micro_batches_learn_as_one_without(alone, of_two, target):
    expected = alone[target]
    assert len(set(expected.losses)) == 3
    for found in (outcome[target] for outcome in of_two):
        assert found.losses == pytest.approx(expected.losses, rel=1e-5)
        assert found.validated == pytest.approx(expected.validated, rel=1e-5)
        assert found.state.keys() == expected.state.keys()
        for name in expected.state:
            learned, tensor = (without_key_bias(name, outcome.state[name]) for outcome in (found, expected))
            torch.testing.assert_close(learned, tensor, rtol=1e-4, atol=1e-4, msg=name)


@each_target
def test_an_interruption_changes_no_bit(alone, folder, target):
    found, expected = train(target, folder, accumulate=parts(target), stop=2), alone[target]
    assert (found.losses, found.validated) == (expected.losses, expected.validated)
    assert [name for name, tensor in expected.state.items() if not tensor.equal(found.state[name])] == []
