"""Pieces of Markdown and HTML documents: tables, pictures, one self-contained page."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right, and the empty line that ends it."""
    bars = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in (head, *rows)]
    return [bars[0], f"|---|{'---:|' * (len(head) - 1)}", *bars[1:], ""]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already; the first of a row is its heading."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for first, *rest in rows:
        lines.append(f"<tr><th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def image(data: bytes, text: str) -> str:
    """A PNG as an ``<img>`` that holds its data, with a text for those who do not see it."""
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
th, td { padding: 0.25em 0.8em; border-bottom: 1px solid #ddd }
td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th { text-align: left; font-weight: 600 }
tr:first-child th:not(:first-child) { text-align: right }
.about td { text-align: left; overflow-wrap: anywhere; white-space: normal } img { max-width: 100% }
h1 { font-size: 1.5em } h2 { font-size: 1.15em }
"""


def html_page(title: str, body: Sequence[str]) -> str:
    """One self-contained HTML page."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
