"""pairs.csv as people type it."""

import pytest

from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.pairs_index import Pair, read_index
from intermoe.errors import UserError

HEADER = "id,person1,person2,split,captions\n"


def read(root, text, encoding="utf-8"):
    (root / "pairs.csv").write_bytes(text.encode(encoding))
    return read_index(root)


def test_commas_in_captions_need_no_quotes(tmp_path):
    first, second = read(
        tmp_path,
        HEADER + "a,a.bvh,b.bvh,train,One pushes, the other falls, then stands.|Hello, you.\n\nb,c,d,val,Bow.\n",
    )
    assert first == Pair(
        "a", ("a.bvh", "b.bvh"), "train", "One pushes, the other falls, then stands.|Hello, you.", line=2
    )
    assert first.sentences() == ("One pushes, the other falls, then stands.", "Hello, you.")
    assert (second.line, second.captions) == (4, "Bow.")
    first.check()


def test_quoted_captions_are_read_as_they_are(tmp_path):
    (pair,) = read(tmp_path, HEADER + 'a,a.bvh,b.bvh,train,"One bows, ""hello""."\n')
    assert pair.captions == 'One bows, "hello".'


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (HEADER, "a,a.bvh,b.bvh,train\n", "pairs.csv, line 2: 4 columns instead of 5"),
        (
            "captions,id,person1,person2,split\n",
            "One pushes, the other falls.,a,a.bvh,b.bvh,train\n",
            "pairs.csv, line 2: 6 columns instead of 5",
        ),
        (HEADER, "a,a.bvh,b.bvh,dev,Bow.\n", "pairs.csv, line 2: split 'dev' is not one of train, val, test"),
        (HEADER, "a,a.bvh,b.bvh,train, | \n", "pairs.csv, line 2: no caption"),
    ],
)
def test_rows_that_are_not_understood_say_so_with_their_line(tmp_path, header, row, message):
    (pair,) = read(tmp_path, header + row)
    with pytest.raises(BadRecording) as caught:
        pair.check()
    assert str(caught.value) == message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path, encoding):
    (pair,) = read(tmp_path, HEADER.replace("\n", "\r\n") + "a,a.bvh,b.bvh,train,Sie grüßen.\r\n", encoding)
    assert pair.captions == "Sie grüßen."


def test_an_empty_file_names_the_columns(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, "")
    assert str(caught.value) == (
        f"{tmp_path / 'pairs.csv'}: no column id, person1, person2, split, captions "
        "(allowed: id, person1, person2, split, captions)"
    )
