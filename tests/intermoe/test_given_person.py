from pathlib import Path

import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.given_person import GivenPerson
from intermoe.motion import Motion


@pytest.fixture(scope="module")
def motion() -> Motion:
    duet = make_interaction(seed=0, index=2)
    return Motion(duet.position_TPJ3[:40], duet.rotation_TPR6[:40], 30, "A push.", SMPL22)


def test_one_of_the_persons_of_a_saved_motion(motion, tmp_path):
    motion.save(tmp_path / "push.npz")
    for number, person in enumerate(("first", "second")):
        given = GivenPerson.load(tmp_path / "push.npz", person=person)
        np.testing.assert_array_equal(given.joints, motion.joints[:, number])
        np.testing.assert_array_equal(given.rotations, motion.rotations[:, number])
        assert (given.role, given.place) == (person, number)
    assert GivenPerson.load(tmp_path / "push.npz", role="second").role == "second"


def test_the_bvh_that_is_saved_is_the_same_person(motion, tmp_path):
    """To what BVH's digits and its constant bones keep."""
    files = motion.save(tmp_path / "push.bvh")
    for number, file in enumerate(files):
        given = GivenPerson.load(file)
        np.testing.assert_allclose(given.joints, motion.joints[:, number], atol=1e-3)
        np.testing.assert_allclose(given.rotations, motion.rotations[:, number], atol=1e-2)
        assert given.role == "first"


def test_bvh_of_another_unit_and_rate(motion, tmp_path):
    file, _ = motion.save(tmp_path / "push.bvh")
    text = Path(file).read_text().replace("Frame Time: 0.033333333", "Frame Time: 0.016666667")
    Path(file).write_text(text)
    assert len(GivenPerson.load(file).joints) == 20, "every other frame"
    half = GivenPerson.load(file, fps=30, scale=0.9)
    np.testing.assert_allclose(half.joints, 0.9 * motion.joints[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", r"unknown suffix '.mp4' \(allowed: .bvh, .npz\)$"),
        ("a.npz", None, r"no such file$"),
        ("a.npz", b"PK", r"not a saved motion: .* \(allowed: a .npz file of Motion.save\)$"),
        ("a.bvh", None, r"cannot be read \(No such file or directory\)$"),
        ("a.bvh", b"BVH?", r"a.bvh, line 1: .*"),
    ],
)
def test_files_that_hold_no_person_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path / name}(, line 1)?: ".replace("a.bvh(", "a.bvh(") + ".*") as caught:
        GivenPerson.load(tmp_path / name)
    import re

    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(name) == 1
