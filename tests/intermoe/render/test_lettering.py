"""Captions fit their place."""

from itertools import pairwise

import pytest

from intermoe.errors import UserNote
from intermoe.render import lettering
from intermoe.render.lettering import font, wrapped

WORDS = "The first person pushes the second person, who stumbles back and raises both hands."


@pytest.mark.parametrize("width", [120, 200, 400])
def test_wrapped_lines_fit_and_lose_no_word(width):
    face = font(20)
    rows = wrapped(WORDS, face, width, 50).splitlines()
    assert " ".join(rows) == WORDS
    assert all(face.getlength(row) <= width for row in rows)
    # Greedy: the first word of a row would not have fitted into the row before.
    for before, row in pairwise(rows):
        assert face.getlength(f"{before} {row.split()[0]}") > width


def test_too_many_lines_end_in_an_ellipsis():
    face = font(20)
    rows = wrapped(WORDS, face, 200, 2).splitlines()
    assert len(rows) == 2
    assert rows[1].endswith(" ...")
    assert all(face.getlength(row) <= 200 for row in rows)


def test_a_word_wider_than_the_line_is_broken():
    face = font(20)
    rows = wrapped("a " + "x" * 60 + " b", face, 100, 50).splitlines()
    assert all(face.getlength(row) <= 100 for row in rows)
    assert "".join(rows).replace(" ", "") == "a" + "x" * 60 + "b"


def test_no_words_no_lines():
    assert wrapped("  ", font(20), 100, 3) == ""


def test_letters_that_no_font_has_are_drawn_as_question_marks_and_noted(monkeypatch):
    monkeypatch.setattr(lettering, "_font_files", lambda: iter([None]))
    lettering.legible.cache_clear()
    with pytest.warns(UserNote) as caught:
        assert lettering.legible("二人 bow") == ("?? bow", None)
    assert [str(note.message) for note in caught] == ["no font of this machine has '二人': drawn as '?' in '二人 bow'"]
    lettering.legible.cache_clear()


def test_the_first_font_that_has_all_letters_is_taken():
    lettering.legible.cache_clear()
    text, file = lettering.legible("Два человека")
    assert text == "Два человека"
    assert file is not None
    assert file.name == "DejaVuSans.ttf"
    face = lettering.font(20, file)
    assert face.getlength(text) > 50
    assert lettering.legible("Zwei Männer grüßen sich.") == ("Zwei Männer grüßen sich.", file)
    assert lettering.legible("Two people bow.") == ("Two people bow.", None)
