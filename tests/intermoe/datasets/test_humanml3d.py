"""HumanML3D as it lies on disk. Legend: T frames, P = 1 person, J = 22 joints, F = 263."""

import os

import numpy as np
import pytest
from humanml3d_files import HumanML3DFolder, joints, rows

from intermoe.body.skeletons import HUMANML22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.humanml3d import HumanML3DReader
from intermoe.datasets.recordings import Reader, Recording, Source
from intermoe.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return HumanML3DFolder(tmp_path)


def read(folder: HumanML3DFolder, id: str = "000021", split: str = "train") -> list[Recording]:
    return HumanML3DReader(folder.root).read(Source(id, split))


def reason(folder: HumanML3DFolder, id: str = "000021", split: str = "train", *, follow_links: bool = False) -> str:
    with pytest.raises(BadRecording) as caught:
        HumanML3DReader(folder.root, follow_links=follow_links).read(Source(id, split))
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_recording_is_read_as_it_lies_on_disk(folder):
    disk_TF = rows(60)
    text = "A  man walks.#a/DET  man/NOUN walk/VERB#0.0#0.0\r\n\nhe #1 goes on#he/PRON go/VERB on/ADV#nan#nan"
    folder.add("000021", disk_TF, split="val", text="\ufeff" + text)
    reader: Reader = HumanML3DReader(folder.root)
    assert (reader.skeleton, reader.names_persons) == (HUMANML22, False)
    assert reader.sources() == [Source("000021", "val")]
    (recording,) = reader.read(Source("000021", "val"))
    assert (recording.id, recording.split, recording.label, recording.notes) == ("000021", "val", {}, ())
    assert recording.captions == ("A man walks.", "he #1 goes on")
    assert recording.words == ("a/DET man/NOUN walk/VERB", "he/PRON go/VERB on/ADV")
    assert recording.features_TPF is not None
    assert np.array_equal(recording.features_TPF, disk_TF[:, None])
    assert recording.features_TPF.dtype == recording.position_TPJ3.dtype == recording.rotation_TPR6.dtype == np.float32
    np.testing.assert_allclose(recording.position_TPJ3, joints(disk_TF)[:, None], atol=1e-5)
    assert recording.rotation_TPR6.shape == (60, 1, 21, 6)
    recording.check(HUMANML22)


def test_numbers_may_have_double_precision_and_captions_no_words(folder):
    folder.add("000021", rows(40).astype(np.float64), text="a man walks.##0.0#0.0\n")
    (recording,) = read(folder)
    assert recording.features_TPF is not None
    assert recording.features_TPF.dtype == np.float32
    assert recording.words == ()


def test_a_caption_of_a_part_makes_a_recording_of_that_part(folder):
    disk_TF = rows(190)
    lines = ["he walks.#he/PRON walk/VERB#1.5#4.0", "all of it.#all/PRON#0.0#0.0", "later.#later/ADV#7.0#9.5"]
    folder.add("000021", disk_TF, text="\n".join([*lines, "it too.#it/PRON#0#0"]))
    whole, first, second = read(folder)
    assert [one.id for one in (whole, first, second)] == ["000021", "000021-part1", "000021-part2"]
    assert whole.captions == ("all of it.", "it too.")
    assert (first.captions, first.words) == (("he walks.",), ("he/PRON walk/VERB",))
    for part, (start, end) in ((whole, (0, 190)), (first, (30, 80)), (second, (140, 190))):
        assert part.features_TPF is not None
        assert np.array_equal(part.features_TPF, disk_TF[start:end, None])
        np.testing.assert_allclose(part.position_TPJ3, joints(disk_TF[start:end])[:, None], atol=1e-5)
        assert part.notes == ()


def test_a_part_ends_with_the_recording_and_one_that_is_too_short_is_noted(folder):
    lines = ["late.#late/ADV#6.0#9.75", "far.#far/ADV#6.0#12", "all.#all/PRON#0.0#0.0", "gone.#go/VERB#9.5#11"]
    folder.add("000021", rows(194), text="\n".join([*lines, "short.#short/ADJ#1.0#2.95", "back.#back/ADV#5#3"]))
    whole, late, far = read(folder)
    assert late.notes == ()
    assert far.notes == ("a caption is from 6 to 12 s, and the recording ends at 9.7 s",)
    assert far.features_TPF is not None
    assert (far.id, len(far.features_TPF)) == ("000021-part2", 74)
    assert whole.notes == (
        "left out: a caption is from 9.5 to 11 s, where the recording has 4 frames; 40 to 199 are read",
        "left out: a caption is from 1 to 2.95 s, where the recording has 39 frames; 40 to 199 are read",
        "left out: a caption is from 5 to 3 s, where the recording has 0 frames; 40 to 199 are read",
    )


def test_without_a_caption_that_can_be_read_the_recording_is_set_aside(folder):
    folder.add("000021", rows(60), text="gone.#go/VERB#30#40\nshort.#short/ADJ#0.0#1.0")
    assert reason(folder) == (
        "a caption is from 30 to 40 s, where the recording has 0 frames; 40 to 199 are read; "
        "a caption is from 0 to 1 s, where the recording has 20 frames; 40 to 199 are read"
    )


def test_labels_are_taken_where_there_are_some(folder):
    folder.add("000021", rows(60), text="all.#all/PRON#0#0\npart.#part/NOUN#0#2.5\n")
    folder.add("000022", rows(60))
    (folder.root / "labels.jsonl").write_text('{"id": "000021", "kind": "walk"}\n')
    assert [one.label for one in read(folder)] == [{"kind": "walk"}, {"kind": "walk"}]
    assert read(folder, "000022")[0].label == {}
    (folder.root / "labels.jsonl").write_text("[]")
    with pytest.raises(UserError) as caught:
        HumanML3DReader(folder.root).sources()
    assert str(caught.value) == (
        f"{folder.root / 'labels.jsonl'}: line 1 is no label (allowed: a JSON object of strings and whole numbers with "
        'an "id")'
    )


@pytest.mark.parametrize(
    ("rows_TF", "message"),
    [
        (rows(60)[:, :262], "has the shape (60, 262) instead of (frames, 263)"),
        (rows(60)[:, :, None], "has the shape (60, 263, 1) instead of (frames, 263)"),
        (np.zeros(0, np.float32), "has the shape (0,) instead of (frames, 263)"),
        (rows(39), "has 39 frames; 40 to 199 are read"),
        (rows(60)[:0], "has 0 frames; 40 to 199 are read"),
        (rows(200), "has 200 frames; 40 to 199 are read"),
        (rows(60).astype(int), "holds int64 instead of floating-point numbers"),
        (
            np.where(np.arange(60)[:, None] == 7, np.nan, rows(60)),
            "holds a number that is not finite, first in frame 7",
        ),
        (rows(60) + 1e30 * (np.arange(60) == 7)[:, None], "holds 1e+30; radians and metres up to 100 are read"),
        (rows(60).astype(float) * 1e40, "holds a number that is not finite, first in frame 0"),
    ],
)
def test_a_file_that_holds_something_else_is_set_aside_by_what_is_wrong_with_it(folder, rows_TF, message):
    folder.add("000021", rows_TF)
    assert reason(folder) == f"new_joint_vecs/000021.npy {message}"


def test_features_that_show_no_body_are_set_aside(folder):
    rows_TF = rows(60)
    folder.add("normalised", (rows_TF - rows_TF.mean(0)) / (rows_TF.std(0) + 0.1))
    assert reason(folder, "normalised").startswith("a body measures ")
    far_TF = rows(60)
    far_TF[:, 2] = 4
    folder.add("far", far_TF)
    assert reason(folder, "far").endswith("m from the origin; positions are metres, up to 100")


def test_a_motion_that_jumps_is_read_with_a_note(folder):
    rows_TF = rows(60)
    rows_TF[20, 2] = 1.5
    folder.add("000021", rows_TF)
    (recording,) = read(folder)
    (note,) = recording.notes
    assert note == (
        "the motion jumps near frame 20: a joint moves faster than 18 m/s, or the root's speed changes by more than "
        "6 m/s from one frame to the next"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a man walks.", "texts/000021.txt, line 1: 1 parts instead of caption#word/POS word/POS#from#to"),
        ("a.#a/X#0#0\nb.#0#0", "texts/000021.txt, line 2: 3 parts instead of caption#word/POS word/POS#from#to"),
        (" #a/X#0#0", "texts/000021.txt, line 1: an empty caption"),
        ("a.#a/X walk#0#0", "texts/000021.txt, line 1: 'walk' instead of a word and its part of speech, word/POS"),
        ("a.#a/X#-1#0", "texts/000021.txt, line 1: a caption from or to '-1'; seconds up to 3600 are meant"),
        ("a.#a/X#0#inf", "texts/000021.txt, line 1: a caption from or to 'inf'; seconds up to 3600 are meant"),
        ("a.#a/X#0#end", "texts/000021.txt, line 1: a caption from or to 'end'; seconds up to 3600 are meant"),
        ("a.#a/X#0#5\n" * 101, "texts/000021.txt has 101 captions; up to 100 are read"),
        (" \n\n", "no captions: texts/000021.txt is empty"),
        (None, "no captions: texts/000021.txt is missing"),
    ],
)
def test_texts_that_are_none_are_told(folder, text, message):
    folder.add("000021", rows(60), text=text)
    assert reason(folder) == message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way(folder, end):
    folder.add("000021", rows(60), text=end.join(["a man walks.#a/X#0#0", "he goes.#he/X#0#0", ""]))
    assert read(folder)[0].captions == ("a man walks.", "he goes.")


def test_what_is_in_no_list_or_several_is_set_aside(folder):
    folder.add("both", rows(60), split="train")
    folder.add("both", rows(60), split="test")
    folder.add("none", rows(60), split=None)
    folder.add("twice", rows(60), split="test")
    folder.add("twice", rows(60), split="test")
    (folder.root / "texts/text.txt").write_text("a.#a/X#0#0")
    (folder.root / "texts/.hidden.txt").touch()
    with (folder.root / "val.txt").open("a") as file:
        file.write("lost\n\n")
    assert HumanML3DReader(folder.root).sources() == [
        Source("both", "train and test"),
        Source("lost", "val"),
        Source("twice", "test"),
        Source("none", ""),
        Source("text", ""),
    ]
    assert reason(folder, "both", "train and test") == (
        "listed in train and test; one recording in two splits would leak between them"
    )
    assert reason(folder, "none", "") == "listed in no split"
    folder.add("000021-part1", rows(60))
    assert reason(folder, "000021-part1") == ("its id ends as those of parts of recordings do: '-part' and a number")
    assert reason(folder, "lost", "val") == "no motion: new_joint_vecs/lost.npy is missing"
    assert reason(folder, "../twice") == (
        "id '../twice' may hold only letters, digits, '.', '-' and '_', and begins with one of the first two"
    )


LAYOUT = " (allowed: a data set in HumanML3D's layout: new_joint_vecs, texts, train.txt, val.txt, test.txt)"


@pytest.mark.parametrize(
    ("missing", "message"),
    [("texts", f"there is no such folder{LAYOUT}"), ("val.txt", "there is no such file")],
)
def test_a_folder_that_is_none_is_told(folder, missing, message):
    (folder.root / missing).rename(folder.root / "moved")
    with pytest.raises(UserError) as caught:
        HumanML3DReader(folder.root).sources()
    assert str(caught.value) == f"{folder.root / missing}: {message}"


def test_nothing_is_unpickled_and_no_header_is_believed(folder):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(folder.root / "harm"),)

    folder.add("000021", rows(60))
    file = folder.root / "new_joint_vecs/000021.npy"
    whole = file.read_bytes()
    np.save(file, np.array([Harm()], dtype=object), allow_pickle=True)
    assert reason(folder).startswith("new_joint_vecs/000021.npy cannot be read: ")
    assert not (folder.root / "harm").exists()
    for size in (0, 5, 60, 128, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert reason(folder).startswith("new_joint_vecs/000021.npy cannot be read: ")
    for frames, told in ((10**8, "105200000128 bytes; up to 151498240"), (72001, "72001 frames; up to 72000")):
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(frames, 263)).flush()  # most is unwritten
        assert reason(folder) == f"new_joint_vecs/000021.npy has {told} are read"


@pytest.mark.parametrize("file", ["new_joint_vecs/000021.npy", "texts/000021.txt"])
def test_a_pipe_is_not_waited_for_and_links_are_followed_only_if_asked_for(folder, tmp_path_factory, file):
    folder.add("000021", rows(60))
    place, outside = folder.root / file, tmp_path_factory.mktemp("outside") / "target"
    place.rename(outside)
    place.symlink_to(outside)
    assert reason(folder) == f"{file} leads outside the data set, where only --follow-links goes"
    assert len(HumanML3DReader(folder.root, follow_links=True).read(Source("000021", "train"))) == 1
    place.unlink()
    os.mkfifo(place)
    assert reason(folder) == f"{file} cannot be read: not a regular file"


@pytest.mark.parametrize("name", ["new_joint_vecs", "test.txt", "labels.jsonl"])
def test_a_list_or_folder_that_leads_out_of_the_data_set_is_refused(folder, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "target"
    (folder.root / "labels.jsonl").touch()
    (folder.root / name).rename(outside)
    (folder.root / name).symlink_to(outside)
    with pytest.raises(UserError) as caught:
        HumanML3DReader(folder.root).sources()
    assert str(caught.value) == (
        f"{folder.root / name}: leads outside the data set (allowed: --follow-links, or files in its folder)"
    )
    assert HumanML3DReader(folder.root, follow_links=True).sources() == []
