"""Words on pictures: captions that fit their place, and the legend that says who is who."""

import re
import warnings
from bisect import bisect_right
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import ImageDraw, ImageFont

from intermoe.errors import UserNote
from intermoe.render.painter import PERSON_COLOURS

INK, FAINT_INK = (38, 45, 57), (104, 114, 130)
PERSON_NAMES = ("first person", "second person")
_SIDES = "left limbs lighter"
# Names of fonts to take only where plain ones lack a character.
_STYLED = re.compile("bold|italic|oblique|mono|math|serif|light|thin", re.IGNORECASE)
_LINE = 1.28  # line height in font sizes

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def font(size: float) -> Font:
    """Pillow's own typeface, so that no font file is needed."""
    return ImageFont.load_default(max(size, 6))


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
        # Of a word of any length, no more is measured than fills the lines, and one more.
        while len(rows) <= lines and len(word) > 1 and face.getlength(word[: 2 * round(width) + 2]) > width:
            beginnings = range(1, min(len(word), 2 * round(width) + 2))
            fits = max(1, bisect_right(beginnings, width, key=lambda n: face.getlength(word[:n])))
            rows.append(word[:fits])
            word = word[fits:]
        rows.append(word)
        if len(rows) > lines:
            break
    if len(rows) > lines:
        last = rows[lines - 1]
        while last and face.getlength(last + " ...") > width:
            last = last[:-1]
        rows = [*rows[: lines - 1], last.rstrip(" ,.;") + " ..."]
    return "\n".join(rows)


def draw_caption(pen: ImageDraw.ImageDraw, text: str, *, size: float, left: float, top: float, width: float) -> float:
    """Write a caption of up to three lines from (left, top) on; returns the y below it.

    Characters that Pillow's own typeface lacks are drawn with a font of this machine that has them; where there is
    none they become "?", with a warning. A caption too long for three lines is set smaller before it is cut.
    """
    text, typeface = _drawable(text)
    for smaller in (1.0, 0.85, 0.72):
        face = font(size * smaller) if typeface is None else ImageFont.truetype(typeface, max(size * smaller, 6))
        rows = wrapped(text, face, width, 3)
        if not rows.endswith(" ..."):
            break
    for row in rows.splitlines():
        pen.text((left, top), row, INK, face)
        top += _LINE * size * smaller
    return top


def draw_legend(pen: ImageDraw.ImageDraw, size: float, left: float, middle: float, num_persons: int = 2) -> float:
    """Write who has which colour in one line around the y ``middle``; returns the x behind it.

    Args:
        pen: of the picture.
        size: of the letters, pixels.
        left: where the line begins.
        middle: of the line.
        num_persons: who is seen; one needs no name.
    """
    face = font(size)
    for colour, name in zip(PERSON_COLOURS, PERSON_NAMES, strict=True) if num_persons > 1 else ():
        radius = 0.42 * size
        pen.ellipse([left, middle - radius, left + 2 * radius, middle + radius], colour)
        pen.text((left + 1.35 * size, middle), name, INK, face, anchor="lm")
        left += 1.35 * size + face.getlength(name) + 1.4 * size
    pen.text((left, middle), _SIDES, FAINT_INK, face, anchor="lm")
    return left + face.getlength(_SIDES)


@lru_cache(maxsize=64)
def _drawable(text: str) -> tuple[str, str | None]:
    """The text with "?" for what no font has, and the font file to draw it with, None for Pillow's own."""
    # Loading matplotlib takes a while, and nearly all captions do without.
    if text.isascii():
        return text, None
    wanted = {ord(char) for char in text if not char.isspace()}
    own = _own_glyphs()
    if wanted <= own:
        return text, None
    best, glyphs = None, own
    for file, others in _machine_fonts():
        if len(wanted & others) > len(wanted & glyphs):
            best, glyphs = file, others
    missing = sorted(wanted - glyphs)
    if missing:
        shown = " ".join(map(chr, missing[:10])) + (" ..." if len(missing) > 10 else "")
        note = UserNote(f"no font on this machine has these characters, drawn as '?': {shown}")
        warnings.warn(note, stacklevel=3)
    return "".join("?" if ord(char) in missing else char for char in text), best


@lru_cache(maxsize=1)
def _own_glyphs() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    file = getattr(font(12), "path", None)
    # Without FreeType, Pillow draws with a bitmap typeface of Latin-1.
    return frozenset(FT2Font(file).get_charmap()) if isinstance(file, BytesIO) else frozenset(range(256))


@lru_cache(maxsize=1)
def _machine_fonts() -> tuple[tuple[str, frozenset[int]], ...]:
    """The fonts that can be drawn with at any size, and the characters of each: matplotlib's, then the machine's."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    fonts = []
    files = sorted(findSystemFonts(), key=lambda path: (bool(_STYLED.search(Path(path).name)), Path(path).name, path))
    for file in [str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), *files]:
        try:
            ImageFont.truetype(file, 12)
            fonts.append((file, frozenset(FT2Font(file).get_charmap())))
        except (OSError, RuntimeError):
            continue  # Fonts of bitmaps come in one size only.
    return tuple(fonts)
