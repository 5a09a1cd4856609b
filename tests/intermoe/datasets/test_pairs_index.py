"""pairs.csv as people type it."""

import os

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


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path, separator):
    header = HEADER.replace(",", separator)
    rows = ["a,a.bvh,b.bvh,train,They bow.", ",,,,", "b,a.bvh,b.bvh,val,They wave.,,"]
    pairs = read(tmp_path, header + "\r\n".join(row.replace(",", separator) for row in rows) + "\r\n")
    assert [(pair.id, pair.captions, pair.fault) for pair in pairs] == [("a", "They bow.", ""), ("b", "They wave.", "")]


def test_line_breaks_and_blanks_in_captions_are_one_blank(tmp_path):
    (pair,) = read(tmp_path, HEADER + 'a,a.bvh,b.bvh,train,"The\u00a0first\nperson  bows."\n')
    assert pair.sentences() == ("The first person bows.",)


def test_a_quote_that_is_not_closed_and_a_doubled_column_are_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, HEADER + 'x,a.bvh,b.bvh,train,"Two people bow.\ny,a.bvh,b.bvh,train,They wave.\n')
    assert str(caught.value) == f"{tmp_path / 'pairs.csv'}: cannot be read (unexpected end of data)"
    with pytest.raises(UserError) as caught:
        read(tmp_path, HEADER.replace("\n", ",captions\n") + "x,a.bvh,b.bvh,train,They bow.,They wave.\n")
    assert str(caught.value) == (
        f"{tmp_path / 'pairs.csv'}: two columns captions (allowed: id, person1, person2, split, captions)"
    )


def test_a_name_that_no_file_can_have_does_not_exist(tmp_path):
    (pair,) = read(tmp_path, HEADER + f"a,{'a' * 300}.bvh,b.bvh,train,They bow.\n")
    with pytest.raises(BadRecording) as caught:
        pair.files(tmp_path)
    assert str(caught.value) == f"pairs.csv, line 2: person1 {'a' * 300 + '.bvh'!r} does not exist"


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path):
    (pair,) = read(tmp_path, HEADER + "a,a.bvh,b.bvh,train,They bow.\n")
    os.mkfifo(tmp_path / "a.bvh")
    with pytest.raises(BadRecording) as caught:
        pair.files(tmp_path)
    assert str(caught.value) == "pairs.csv, line 2: person1 'a.bvh' is not a regular file"
    (tmp_path / "pairs.csv").unlink()
    os.mkfifo(tmp_path / "pairs.csv")
    with pytest.raises(UserError) as refused:
        read_index(tmp_path)
    assert str(refused.value) == f"{tmp_path / 'pairs.csv'}: cannot be read (not a regular file)"
