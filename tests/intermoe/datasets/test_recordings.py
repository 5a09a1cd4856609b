from dataclasses import replace

import numpy as np
import pytest
import torch
from bodies import standing_bodies
from humanml3d_files import rows

from intermoe.body.conventions import MIN_FRAMES, SPLITS
from intermoe.body.heading_features import heading_joints, heading_rotations
from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.recordings import Recording, check_id

# Legend: T frames, P persons, J = 22 joints, R = 21, F features.


@pytest.fixture
def good() -> Recording:
    position_TPJ3, rotation_TPR6 = standing_bodies(20)
    return Recording(
        id="take_1.a-2",
        split="val",
        position_TPJ3=position_TPJ3,
        rotation_TPR6=rotation_TPR6,
        captions=("Two people bow.",),
        label={"kind": "bow", "actor": 0},
    )


def test_a_good_recording_is_given_back(good):
    assert good.check(SMPL22) is good
    for split in SPLITS:
        replace(good, split=split).check(SMPL22)
    shortest = replace(
        good, position_TPJ3=good.position_TPJ3[:MIN_FRAMES], rotation_TPR6=good.rotation_TPR6[:MIN_FRAMES]
    )
    assert len(shortest.check(SMPL22).position_TPJ3) == 15


def poked(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: {"split": "dev"}, r"split 'dev' is not one of train, val, test"),
        (lambda r: {"position_TPJ3": r.position_TPJ3[:, :1]}, r"positions have the shape \(20, 1, 22, 3\)"),
        (lambda r: {"position_TPJ3": r.position_TPJ3[:, :, :21]}, r"instead of \(20, 2, 22, 3\)"),
        (lambda r: {"rotation_TPR6": r.rotation_TPR6[:19]}, r"rotations have the shape \(19, 2, 21, 6\)"),
        (lambda r: {"position_TPJ3": poked(r.position_TPJ3, (7, 1, 3, 0), np.nan)}, "not finite, first in frame 7"),
        (lambda r: {"rotation_TPR6": poked(r.rotation_TPR6, (9, 0, 0, 5), -np.inf)}, "rotations.*in frame 9"),
        (lambda r: {"position_TPJ3": 1000 * r.position_TPJ3}, "m from the origin; positions are metres, up to 100"),
        (
            lambda r: {"position_TPJ3": r.position_TPJ3[:14], "rotation_TPR6": r.rotation_TPR6[:14]},
            "14 frames are fewer than 15",
        ),
        (lambda r: {"position_TPJ3": r.position_TPJ3[:0], "rotation_TPR6": r.rotation_TPR6[:0]}, "0 frames are fewer"),
        (lambda r: {"captions": ()}, "no caption"),
        (lambda r: {"captions": ("Two people bow.", " \n")}, "no caption"),
        (lambda r: {"id": "../take"}, r"id '\.\./take' may hold only letters"),
    ],
)
def test_what_breaks_a_promise_is_told(good, change, reason):
    with pytest.raises(BadRecording, match=reason):
        replace(good, **change(good)).check(SMPL22)


@pytest.fixture
def of_one() -> Recording:
    features_TF = torch.from_numpy(rows(50))
    return Recording(
        id="000021",
        split="train",
        position_TPJ3=heading_joints(features_TF, HUMANML22)[:, None].numpy(),
        rotation_TPR6=heading_rotations(features_TF, HUMANML22)[:, None].numpy(),
        captions=("a man walks.", "he walks"),
        label={},
        words=("a/DET man/NOUN walk/VERB", ""),
        features_TPF=features_TF[:, None].numpy(),
    )


def test_a_recording_of_one_person_is_checked_by_its_skeleton(good, of_one):
    assert of_one.check(HUMANML22) is of_one
    lying_TPJ3 = of_one.position_TPJ3[..., [0, 2, 1]] * np.array([1, 1, -1], np.float32) + np.array(
        [0, 3, 0], np.float32
    )
    replace(of_one, position_TPJ3=lying_TPJ3).check(HUMANML22)  # which way is up, the features themselves say
    with pytest.raises(BadRecording, match=r"positions have the shape \(50, 1, 22, 3\) instead of \(50, 2, 22, 3\)"):
        replace(of_one, features_TPF=None).check(SMPL22)
    with pytest.raises(BadRecording, match="features are not of this skeleton"):
        replace(good, features_TPF=of_one.features_TPF).check(SMPL22)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: {"features_TPF": None}, "features are missing"),
        (lambda r: {"features_TPF": r.features_TPF[..., :262]}, r"features have the shape \(50, 1, 262\) instead of"),
        (lambda r: {"features_TPF": r.features_TPF[:49]}, r"features have the shape \(49, 1, 263\) instead of"),
        (lambda r: {"features_TPF": poked(r.features_TPF, (8, 0, 200), np.nan)}, "features hold.*first in frame 8"),
        (lambda r: {"position_TPJ3": 3 * r.position_TPJ3}, "a body measures .* m from the feet"),
        (lambda r: {"words": ("a/DET",)}, "words of 1 captions instead of 2"),
    ],
)
def test_what_breaks_a_promise_of_one_person_is_told(of_one, change, reason):
    with pytest.raises(BadRecording, match=reason):
        replace(of_one, **change(of_one)).check(HUMANML22)


@pytest.mark.parametrize("id", ["1", "A-b_c.d", "2021.10", "x" * 200])
def test_ids_that_name_a_file_in_the_folder(id):
    check_id(id)


@pytest.mark.parametrize("id", ["", ".", "..", "../a", "a/b", "a\\b", "/a", "-a", "_a", ".a", "a b", "a\n", "ä", "a\0"])
def test_ids_that_could_name_another_file(id):
    with pytest.raises(BadRecording, match="may hold only letters"):
        check_id(id)
