from pathlib import Path

import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError, UserNote
from intermoe.given_person import ROLES, GivenPerson
from intermoe.motion import Motion


@pytest.fixture(scope="module")
def motion() -> Motion:
    duet = make_interaction(seed=0, index=2)
    return Motion(duet.position_TPJ3[:40], duet.rotation_TPR6[:40], 30, "A push.", SMPL22)


def test_one_of_the_persons_of_a_saved_motion(motion, tmp_path):
    motion.save(tmp_path / "push.npz")
    for number, person in enumerate(ROLES):
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


@pytest.fixture
def bvh(motion, tmp_path) -> Path:
    return Path(motion.save(tmp_path / "push.bvh")[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "nope"}, ": unknown mapping 'nope' (allowed: bandai_namco, "),
        ({"mapping": "cmu"}, ": there is no joint "),
        ({"scale": 100}, ": a body measures 146 m from the feet to the head joint; allowed: 0.8 to 2.2 m; `--scale 1`"),
        ({"scale": -1}, ": scale -1 (allowed: a number above 0: metres in one unit of the files)"),
        ({"fps": 1}, ": fps 1 (allowed: 5 to 1000 frames per second)"),
    ],
)
def test_options_that_do_not_fit_the_file_are_told(bvh, options, message):
    with pytest.raises(UserError) as caught:
        GivenPerson.load(bvh, **options)
    assert str(caught.value).startswith(f"{bvh}{message}")


def with_number(text: str, frame: int, column: int, number: str) -> str:
    """BVH in which one number of a frame is another."""
    lines = text.splitlines()
    row = lines.index("MOTION") + 3 + frame
    numbers = lines[row].split()
    numbers[column] = number
    lines[row] = " ".join(numbers)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "BVH?", ", line 1: 'BVH?' instead of 'HIERARCHY'"),
        (lambda text: with_number(text, 5, 7, "nan"), ": Xrotation of 'left_hip' is nan in frame 5"),
        (lambda text: text[: text.index("MOTION")], ": "),
        (
            lambda text: "\n".join(text.splitlines()[:-30]).replace("Frames: 40", "Frames: 10"),
            ": given: 10 frames (allowed: 15 or more)",
        ),
    ],
    ids=["no bvh", "nan", "no motion", "short"],
)
def test_a_bvh_file_that_shows_nobody_is_named(bvh, change, message):
    bvh.write_text(change(bvh.read_text()))
    with pytest.raises(UserError) as caught:
        GivenPerson.load(bvh)
    assert str(caught.value).startswith(f"{bvh}{message}" if message != ": " else str(bvh))


def test_a_jump_or_a_body_that_lies_is_noted_and_taken_as_it_is(bvh):
    """As it is somebody's choice of a file; in a data set both are set aside."""
    bvh.write_text(with_number(bvh.read_text(), 5, 0, "9"))
    with pytest.warns(UserNote) as told:
        given = GivenPerson.load(bvh)
    assert [str(note.message) for note in told if note.category is UserNote] == [
        f"{bvh}: the motion jumps near frame 2, and so does the person"
    ]
    assert np.abs(np.diff(given.joints[:, 0, 0])).max() > 3


def test_files_of_another_kind_are_told(motion, tmp_path):
    for name, message in (
        ("a.mp4", "unknown suffix '.mp4' (allowed: .bvh, .npz)"),
        ("a.npz", "no such file"),
        ("a.bvh", "cannot be read (No such file or directory)"),
    ):
        with pytest.raises(UserError) as caught:
            GivenPerson.load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 60}, "given: 60 frames a second (allowed: 30)"),
        ({"scale": 100}, "given: a body measures 146 m from the feet to the head joint; allowed: 0.8 to 2.2 m"),
        ({"frames": 9}, "given: 9 frames (allowed: 15 or more)"),
    ],
)
def test_an_npz_file_that_shows_nobody_is_named(motion, tmp_path, change, message):
    frames = change.get("frames", 40)
    Motion(
        motion.joints[:frames] * change.get("scale", 1),
        motion.rotations[:frames],
        change.get("fps", 30),
        "x",
        SMPL22,
    ).save(tmp_path / "a.npz")
    with pytest.raises(UserError) as caught:
        GivenPerson.load(tmp_path / "a.npz")
    assert str(caught.value) == f"{tmp_path / 'a.npz'}: {message}"


def test_arrays_of_one_person_are_checked(motion):
    given = GivenPerson.of(motion)
    broken = given.joints.copy()
    broken[3, 2, 1] = np.nan
    for joints, rotations, role, message in (
        (motion.joints, given.rotations, "first", "given: joints of the shape (40, 2, 22, 3)"),
        (broken, given.rotations, "first", "given: joints hold a number that is not finite, first in frame 3"),
        (given.joints, given.rotations * 0, "first", "given: the six numbers of left_hip in frame 0 are not"),
        (given.joints, given.rotations, "third", "given: role 'third' (allowed: first or second)"),
    ):
        with pytest.raises(UserError) as caught:
            GivenPerson(joints, rotations, SMPL22, role)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)
