"""The networks of one person learn the same alone, in micro-batches, on two workers and after an interruption.

With the project's own steps and samples.
"""

import pytest
import torch
from key_biases import without_key_bias
from one_person import write_solo_shards
from one_person_training import TARGETS, Outcome, Target, train, train_as_two

IDS = ["-".join(target) for target in TARGETS]
# The pool of expert choice is a micro-batch.
ALIKE_IN_PARTS = [target for target in TARGETS if target[2] != "expert_choice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_solo_shards(tmp_path_factory.mktemp("solo") / "shards", {"train": 20, "val": 5}).path)


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[tuple[Target, int], Outcome]:
    return {(target, parts): train(target, folder, accumulate=parts) for target in TARGETS for parts in (1, 2)}


@pytest.fixture(scope="module")
def of_two(folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[Target, int], Outcome]]:
    return train_as_two(folder, tmp_path_factory.mktemp("two"))


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.validated == pytest.approx(expected.validated, rel=1e-5)
    assert found.state.keys() == expected.state.keys()
    for name in expected.state:
        learned, tensor = (without_key_bias(name, outcome.state[name]) for outcome in (found, expected))
        torch.testing.assert_close(learned, tensor, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
def test_two_workers_learn_as_one(alone, of_two, target):
    for parts in (1, 2):
        for outcome in of_two:
            assert_same(outcome[target, parts], alone[target, parts])
    assert len(set(alone[target, 1].losses)) == 3


@pytest.mark.parametrize("target", ALIKE_IN_PARTS, ids="-".join)
def test_micro_batches_change_nothing(alone, target):
    assert_same(alone[target, 2], alone[target, 1])


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
def test_an_interruption_changes_no_bit(alone, folder, target):
    found, expected = train(target, folder, stop=2), alone[target, 1]
    assert (found.losses, found.validated) == (expected.losses, expected.validated)
    assert [name for name, tensor in expected.state.items() if not tensor.equal(found.state[name])] == []
