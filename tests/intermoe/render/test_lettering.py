"""Captions fit their place."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from intermoe.render import lettering
from intermoe.render.lettering import draw_caption, font, wrapped

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


@pytest.fixture
def no_cache():
    lettering._drawable.cache_clear()
    yield
    lettering._drawable.cache_clear()


def drawn(text):
    picture = Image.new("RGB", (300, 60), "white")
    draw_caption(ImageDraw.Draw(picture), text, size=16, left=0, top=0, width=300)
    return picture.tobytes()


def test_characters_that_no_font_has_are_drawn_as_question_marks_and_named(monkeypatch, no_cache):
    monkeypatch.setattr(lettering, "_machine_fonts", lambda: ())
    with pytest.warns(UserWarning, match="no font") as caught:
        picture = drawn("bow \u4e8c\u4eba")
    assert [str(warning.message) for warning in caught] == [
        "no font on this machine has these characters, drawn as '?': \u4e8c \u4eba"
    ]
    assert picture == drawn("bow ??")


def test_a_font_of_the_machine_draws_what_the_own_typeface_lacks(monkeypatch, no_cache):
    from matplotlib import get_data_path

    file = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(lettering, "_machine_fonts", lambda: ((file, frozenset(map(ord, "ab\u0634"))),))
    assert lettering._drawable("ab \u0634") == ("ab \u0634", file)
    assert drawn("ab \u0634") != drawn("ab ?")


def test_plain_captions_keep_the_own_typeface(no_cache):
    assert lettering._drawable("They bow.") == ("They bow.", None)


def test_accents_are_drawn_on_every_machine(monkeypatch, no_cache):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    lettering._machine_fonts.cache_clear()
    text, file = lettering._drawable("zwei Schritte zur\u00fcck, \u0434\u0432\u0430")
    lettering._machine_fonts.cache_clear()
    assert file is not None
    assert (text, Path(file).name) == ("zwei Schritte zur\u00fcck, \u0434\u0432\u0430", "DejaVuSans.ttf")


def test_a_word_of_any_length_is_cut_at_once():
    began = time.process_time()
    rows = wrapped("é" * 100_000, font(20), 300, 3).splitlines()
    assert len(rows) == 3
    assert rows[2].endswith(" ...")
    assert time.process_time() - began < 5
