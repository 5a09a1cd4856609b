"""The metrics against the published implementation, against closed forms and against loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from intermoe.errors import UserError
from intermoe.evaluation.metrics import (
    SCALES,
    Interval,
    distances,
    diversity,
    fid,
    matching,
    multimodality,
    random_pairs,
)


def embeddings(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def test_golden_numbers(golden: Path):
    stored = np.load(golden / "metrics.npz", allow_pickle=False)
    wanted = json.loads(str(stored["results"]))
    text, motion, real = stored["text"], stored["motion"], stored["gt"]
    precision, distance = matching(text, motion, 96)
    assert precision.tolist() == pytest.approx(wanted["r_precision"], rel=1e-6)
    assert distance == pytest.approx(wanted["mm_dist"], rel=1e-6)
    assert matching(text, motion, 32)[0].tolist() == pytest.approx(wanted["r_precision_pool32"], rel=1e-6)
    assert fid(motion, real) == pytest.approx(wanted["fid"], rel=1e-6)
    assert fid(motion, real) == pytest.approx(wanted["fid_scale1"] * SCALES.fid**2, rel=1e-6)
    pairs = random_pairs(np.random.RandomState(0), len(motion), 300)
    assert diversity(motion, pairs) == pytest.approx(wanted["diversity_seed0"], rel=1e-6)
    pairs = random_pairs(np.random.RandomState(0), stored["mm"].shape[1], 10)
    assert multimodality(stored["mm"], pairs) == pytest.approx(wanted["multimodality_seed0"], rel=1e-6)


def test_matching_equals_a_loop_and_drops_the_last_pool():
    text, motion = embeddings(23, seed=1), embeddings(23, seed=1) + 2.0 * embeddings(23, seed=2)
    hits, own = np.zeros(3), []
    for first in (0, 7, 14):
        for i in range(first, first + 7):
            far = [float(np.linalg.norm(text[i].astype(float) - motion[j])) for j in range(first, first + 7)]
            place = sorted(range(7), key=lambda j: far[j]).index(i - first)
            hits += [place < 1, place < 2, place < 3]
            own.append(far[i - first])
    precision, distance = matching(text, motion, 7)
    assert 0 < precision[0] < precision[2] < 1
    np.testing.assert_allclose(precision, hits / 21)
    assert distance == pytest.approx(np.mean(own), rel=1e-9)


def test_motions_that_are_all_alike_are_found_by_chance_alone():
    precision, _ = matching(embeddings(40), np.repeat(embeddings(1), 40, axis=0), 10)
    assert precision.tolist() == [0.1, 0.2, 0.3]


def test_fid_of_normal_distributions_in_closed_form():
    """Two diagonal covariances: the root of their product is diagonal too."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, 5))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T  # exactly white
    one, two, shift = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 1, 0.5, 3.0]), np.array([1, 0, -1, 0.5, 0])
    wanted = SCALES.fid**2 * (np.square(shift).sum() + np.square(one - two).sum())
    assert fid(white * one + shift, white * two) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("count", [6, 100])
def test_fid_equals_the_root_of_the_matrix_product(count):
    """With 6 motions of 8 numbers, covariances are singular: the usual form then needs its real part."""
    one, two = embeddings(count, seed=1), embeddings(count, seed=2) * 0.9 + 0.1
    a, b = (np.cov(x.astype(float) * SCALES.fid, rowvar=False) for x in (one, two))
    root = scipy.linalg.sqrtm(a @ b).real
    wanted = np.square((one - two).astype(float).mean(0) * SCALES.fid).sum() + np.trace(a + b - 2 * root)
    assert fid(one, two) == pytest.approx(wanted, rel=1e-5)
    assert fid(one, two) == pytest.approx(fid(two, one), rel=1e-6)


def test_fid_of_the_same_motions_is_not_below_zero():
    for seed in range(8):
        some = embeddings(40, seed=seed)
        assert 0 <= fid(some, some[::-1], 1.0) < 1e-6


def test_diversity_and_multimodality_by_hand():
    motion = np.array([[0.0, 0], [3, 4], [0, 8]])
    assert diversity(motion, (np.array([0, 1]), np.array([1, 1]))) == pytest.approx((5 * 6 / 2 + 0) / 2)
    samples = np.stack([motion, motion * 2])
    assert multimodality(samples, (np.array([0]), np.array([2]))) == pytest.approx((8 + 16) / 2)


def test_pairs_are_of_different_numbers_each_and_as_many_as_there_can_be():
    first, second = random_pairs(np.random.default_rng(0), 50, 20)
    assert len(set(first)) == len(set(second)) == 20
    assert [len(half) for half in random_pairs(np.random.default_rng(0), 5, 300)] == [5, 5]


def test_an_interval_narrows_with_the_root_of_the_replications():
    few, many = Interval.of([0.0, 2.0]), Interval.of([0.0, 2.0] * 4)
    assert few.mean == many.mean == 1
    assert few.half_width == pytest.approx(1.96 / np.sqrt(2))
    assert many.half_width == pytest.approx(few.half_width / 2)
    assert Interval.of([3.0]).half_width == 0


def test_distances_are_of_rows_to_columns():
    found = distances(np.array([[0.0, 0], [1, 0]]), np.array([[0.0, 2], [1, 1]]))
    np.testing.assert_allclose(found, [[2, np.sqrt(2)], [np.sqrt(5), 1]])


def test_fewer_pairs_than_a_pool_are_refused():
    with pytest.raises(UserError, match=r"5 pairs of text and motion \(allowed: 6 or more"):
        matching(embeddings(5), embeddings(5), 6)
