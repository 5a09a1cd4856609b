"""Documents of text, tables and pictures, as Markdown and as one self-contained HTML page; figures as PNG."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd


class Block(Protocol):
    """A piece of a section."""

    def markdown(self) -> str:
        """As Markdown, with everything escaped that is not ours; empty where Markdown cannot show it."""

    def html(self) -> str:
        """As HTML, with everything escaped that is not ours."""


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str

    def markdown(self) -> str:
        """The text, escaped."""
        return escaped(self.text)

    def html(self) -> str:
        """The text as a ``<p>``."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class BulletList:
    """Lines, each with a bullet."""

    lines: Sequence[str]

    def markdown(self) -> str:
        """A line per bullet."""
        return "\n".join(f"- {escaped(line)}" for line in self.lines)

    def html(self) -> str:
        """The lines as a ``<ul>``."""
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in self.lines) + "</ul>"


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table of text.

    Attributes:
        cells: the text; the index names the rows, and its name is the heading above them.
        bold: of each cell whether it is bold, labelled like ``cells``; none is if None.
        numeric: whether the cells are numbers, which stand to the right.

    Example:
        >>> cells = pd.DataFrame({"FID": ["2.000", "1.000"]}, index=["a", "b"])
        >>> print(TextTable(cells, bold=cells == "1.000").markdown())
        |    |       FID |
        |:---|----------:|
        | a  |     2.000 |
        | b  | **1.000** |
    """

    cells: pd.DataFrame
    bold: pd.DataFrame | None = None
    numeric: bool = True

    def markdown(self) -> str:
        """The table with its columns aligned."""
        cells = self._with_bold(self.cells.map(escaped), "**{}**").rename(index=escaped, columns=escaped)
        cells = cells.rename_axis(index=escaped(str(cells.index.name or "")) or None)
        alignment = ["left"] + ["right" if self.numeric else "left"] * len(cells.columns)
        return str(cells.to_markdown(colalign=alignment, disable_numparse=True))

    def html(self) -> str:
        """The table as a ``<table>``."""
        cells = self._with_bold(self.cells.map(html.escape), "<b>{}</b>").rename(index=html.escape, columns=html.escape)
        # In the corner, where the name of the index would get a line of its own.
        cells = cells.rename_axis(index=None, columns=html.escape(str(cells.index.name or "")))
        return cells.to_html(escape=False, border=0, classes=None if self.numeric else "text")

    def _with_bold(self, cells: pd.DataFrame, template: str) -> pd.DataFrame:
        return cells if self.bold is None else cells.mask(self.bold, cells.map(template.format))


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        png: its bytes.
        text: for those who do not see it.
        file: its name in the folder of the Markdown file, which leaves it out if None.
    """

    png: bytes
    text: str
    file: str | None = None

    def markdown(self) -> str:
        """A link to the file."""
        return f"![{escaped(self.text)}]({self.file})" if self.file else ""

    def html(self) -> str:
        """An ``<img>`` that holds the data."""
        data = base64.b64encode(self.png).decode()
        return f'<img alt="{html.escape(self.text)}" src="data:image/png;base64,{data}">'


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """Sections under a title."""

    title: str
    sections: Sequence[Section]

    def markdown(self) -> str:
        """The document as Markdown; sections that it cannot show are left out."""
        pieces = [f"# {escaped(self.title)}"]
        for section in self.sections:
            blocks = [text for block in section.blocks if (text := block.markdown())]
            pieces += [f"## {escaped(section.title)}", *blocks] if blocks else []
        return "\n\n".join(pieces) + "\n"

    def html(self) -> str:
        """The document as one HTML page that needs nothing else."""
        title = html.escape(self.title)
        head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        pieces = [f"<h1>{title}</h1>"]
        for section in self.sections:
            pieces += [f"<h2>{html.escape(section.title)}</h2>", *(block.html() for block in section.blocks)]
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(pieces)}</body></html>\n'


def interval_texts(mean: pd.Series, half_width: pd.Series) -> pd.Series:
    """Numbers with their intervals for people: without an interval that is not known, empty without a mean.

    Example:
        >>> unknown = float("nan")
        >>> interval_texts(pd.Series([2.0, 0.5, unknown]), pd.Series([1.3859, unknown, unknown])).tolist()
        ['2.000 ±1.386', '0.500', '']
    """
    means = mean.map("{:.3f}".format).where(mean.notna(), "")
    return means + half_width.map(" ±{:.3f}".format).where(half_width.notna(), "")


def png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def escaped(text: str) -> str:
    r"""Text on one line of Markdown that nothing in it makes a tag, a cell, a code, a link or a picture.

    Example:
        >>> print(escaped("<b>a|b</b> `x`"))
        &lt;b>a\|b&lt;/b> \`x\`
        >>> print(escaped(r"a\|b"))
        a\\\|b
    """
    for mark, written in (("\\", r"\\"), ("<", "&lt;"), ("|", r"\|"), ("`", r"\`"), ("](", r"]\(")):
        text = text.replace(mark, written)
    return " ".join(text.splitlines())


def code(text: str) -> str:
    """Text as a code of Markdown, whatever it holds.

    Example:
        >>> code("runs/duet"), code("a `b`")
        ('`runs/duet`', '`` a `b` ``')
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{' '.join(text.splitlines())}{blank}{fence}"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { padding: 0.25em 0.8em; border-bottom: 1px solid #ddd }
th { text-align: left; font-weight: 600 }
td, thead th:not(:first-child) { text-align: right }
td { font-variant-numeric: tabular-nums; white-space: nowrap }
.text td, .text thead th { text-align: left }
.text td { font-family: monospace; overflow-wrap: anywhere; white-space: normal }
img { max-width: 100% }
h1 { font-size: 1.5em } h2 { font-size: 1.15em }
"""
