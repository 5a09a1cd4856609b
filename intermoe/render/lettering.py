"""Words on pictures: captions that fit their place, and the legend that says who is who."""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from intermoe.errors import UserNote
from intermoe.render.painter import PERSON_COLOURS

INK, FAINT_INK = (38, 45, 57), (104, 114, 130)
PERSON_NAMES = ("first person", "second person")
_SIDES = "left limbs lighter"
_LINE = 1.28  # line height in font sizes
# What no font draws: a font shows it, and whatever it has no letter for, as its box for a missing letter.
_NO_LETTER = "\uffff"

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def font(size: float, file: Path | None = None) -> Font:
    """A typeface; without a file Pillow's own, so that none is needed."""
    return ImageFont.load_default(max(size, 6)) if file is None else ImageFont.truetype(str(file), max(size, 6))


@lru_cache(maxsize=64)
def legible(text: str) -> tuple[str, Path | None]:
    """A text as it can be drawn, and the font file that has its letters: None for Pillow's own typeface.

    The first font of this machine that has all of them, beginning with Pillow's, which has those of ASCII. Where none
    has, those that are missing become "?", and a ``UserNote`` says so.

    Example:
        >>> legible("Two people bow.")
        ('Two people bow.', None)
    """
    best, fewest = None, set(text) - {" "}
    for number, file in enumerate(_font_files()):
        missing = _missing(text, file)
        if number == 0 or len(missing) < len(fewest):
            best, fewest = file, missing
        if not missing:
            return text, file
    letters = "".join(sorted(fewest))
    warnings.warn(UserNote(f"no font of this machine has {letters!r}: drawn as '?' in {text!r}"), stacklevel=2)
    return "".join("?" if letter in fewest else letter for letter in text), best


def _font_files() -> Iterator[Path | None]:
    yield None
    import matplotlib
    from matplotlib import font_manager

    yield Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    yield from sorted(map(Path, font_manager.findSystemFonts()))


def _missing(text: str, file: Path | None) -> set[str]:
    """The letters of a text that a font has not."""
    try:
        face = font(20, file)
        box = _drawn(face, _NO_LETTER)
        return {letter for letter in set(text) if not letter.isspace() and _drawn(face, letter) == box}
    except OSError:  # a font that cannot be read has none
        return {letter for letter in set(text) if not letter.isspace()}


def _drawn(face: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(letter)
    return mask.size, bytes(mask)


def wrapped(text: str, face: Font, width: float, lines: int) -> str:
    r"""The text broken at spaces into lines of at most ``width`` pixels; what exceeds ``lines`` ends in an ellipsis.

    Example:
        >>> wrapped("one person bows to the other", font(20), 160, 2)
        'one person bows\nto the other'
    """
    rows: list[str] = []
    for word in text.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and face.getlength(longer) <= width:
            rows[-1] = longer
            continue
        while face.getlength(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or face.getlength(word[:n]) <= width)
            rows.append(word[:fits])
            word = word[fits:]
        rows.append(word)
    if len(rows) > lines:
        last = rows[lines - 1]
        while last and face.getlength(last + " ...") > width:
            last = last[:-1]
        rows = [*rows[: lines - 1], last.rstrip(" ,.;") + " ..."]
    return "\n".join(rows)


def draw_caption(pen: ImageDraw.ImageDraw, text: str, *, size: float, left: float, top: float, width: float) -> float:
    """Write a caption of up to three lines from (left, top) on; returns the y below it.

    A caption too long for three lines is set smaller before it is cut.
    """
    text, file = legible(text)
    for smaller in (1.0, 0.85, 0.72):
        face = font(size * smaller, file)
        rows = wrapped(text, face, width, 3)
        if not rows.endswith(" ..."):
            break
    for row in rows.splitlines():
        pen.text((left, top), row, INK, face)
        top += _LINE * size * smaller
    return top


def draw_legend(pen: ImageDraw.ImageDraw, size: float, left: float, middle: float) -> float:
    """Write who has which colour in one line around the y ``middle``; returns the x behind it."""
    face = font(size)
    for colour, name in zip(PERSON_COLOURS, PERSON_NAMES, strict=True):
        radius = 0.42 * size
        pen.ellipse([left, middle - radius, left + 2 * radius, middle + radius], colour)
        pen.text((left + 1.35 * size, middle), name, INK, face, anchor="lm")
        left += 1.35 * size + face.getlength(name) + 1.4 * size
    pen.text((left, middle), _SIDES, FAINT_INK, face, anchor="lm")
    return left + face.getlength(_SIDES)
