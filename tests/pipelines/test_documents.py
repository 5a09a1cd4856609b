"""Documents: what Markdown and HTML show, aligned, marked and escaped."""

import pandas as pd
import pytest

from pipelines.documents import (
    Block,
    BulletList,
    Document,
    Paragraph,
    Picture,
    Section,
    TextTable,
    code,
    interval_texts,
)

HOSTILE = "<b>|&</b>"


@pytest.fixture
def cells() -> pd.DataFrame:
    return pd.DataFrame(
        {"FID ↓": ["2.000 ±1.386", "10.000 ±0.100"], HOSTILE: ["1|2", "<i>"]},
        index=pd.Index(["real", "a|b"], name="row"),
    )


def test_a_table_in_markdown_is_aligned_and_no_cell_ends_early(cells):
    assert TextTable(cells).markdown().splitlines() == [
        r"| row   |         FID ↓ |   &lt;b>\|&&lt;/b> |",
        r"|:------|--------------:|-------------------:|",
        r"| real  |  2.000 ±1.386 |               1\|2 |",
        r"| a\|b  | 10.000 ±0.100 |             &lt;i> |",
    ]
    assert TextTable(cells[["FID ↓"]], numeric=False).markdown().splitlines()[1] == "|:------|:--------------|"


def test_a_table_in_html_is_escaped_and_as_long_as_its_cells(cells):
    cells.iloc[0, 0] = "x" * 500
    page = TextTable(cells).html()
    assert "<b>" not in page
    assert "<i>" not in page
    assert "x" * 500 in page
    assert "<th>&lt;b&gt;|&amp;&lt;/b&gt;</th>" in page
    # The name of the index stands in the corner, not on a line of its own.
    assert page.count("<tr") == 3
    assert "<th>row</th>" in page
    assert 'class="dataframe text"' in TextTable(cells, numeric=False).html()
    assert "<th>&lt;script&gt;</th>" in TextTable(cells.rename_axis("<script>")).html()


def test_bold_cells_are_marked_in_both(cells):
    bold = pd.DataFrame([[True, False], [False, True]], index=cells.index, columns=cells.columns)
    table = TextTable(cells, bold)
    assert "**2.000 ±1.386**" in table.markdown()
    assert table.markdown().count("**") == 4
    assert "<td><b>2.000 ±1.386</b></td>" in table.html()
    assert "<td><b>&lt;i&gt;</b></td>" in table.html()


def test_a_table_may_be_empty():
    empty = TextTable(pd.DataFrame(index=pd.Index([], name="row")))
    assert "<table" in empty.html()
    assert empty.markdown() == "| row   |\n|-------|"


def test_numbers_with_unknown_parts():
    nothing = pd.Series([float("nan")] * 2)
    assert interval_texts(nothing, nothing).tolist() == ["", ""]
    assert interval_texts(pd.Series([-0.12345, 1000.0]), pd.Series([0.0, float("nan")])).tolist() == [
        "-0.123 ±0.000",
        "1000.000",
    ]


def test_a_document_has_its_sections_in_both_forms(cells):
    document = Document(
        "Title & more",
        [
            Section("Numbers", [TextTable(cells[["FID ↓"]]), Paragraph("A < B.")]),
            Section("Seen", [Picture(b"PNG", 'a "plot"', "plot.png")]),
            Section("Only in HTML", [Picture(b"PNG", "unlinked")]),
            Section("Notes", [BulletList(["one", "two <3"])]),
        ],
    )
    assert document.markdown() == (
        "# Title & more\n\n"
        "## Numbers\n\n"
        "| row   |         FID ↓ |\n|:------|--------------:|\n| real  |  2.000 ±1.386 |\n| a|b  | 10.000 ±0.100 |\n\n"
        "A &lt; B.\n\n"
        '## Seen\n\n![a "plot"](plot.png)\n\n'
        "## Notes\n\n- one\n- two &lt;3\n"
    ).replace("a|b", r"a\|b")
    page = document.html()
    assert page.startswith('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Title &amp; more</title>')
    assert "<h1>Title &amp; more</h1><h2>Numbers</h2><table" in page
    assert "<p>A &lt; B.</p>" in page
    assert '<h2>Seen</h2><img alt="a &quot;plot&quot;" src="data:image/png;base64,UE5H">' in page
    assert "<h2>Only in HTML</h2><img" in page
    assert "<ul><li>one</li><li>two &lt;3</li></ul>" in page


def test_no_name_adds_anything_to_markdown():
    hostile = "a\n# b `c` <script>|x</script> ![y](http://z)"
    safe = r"a # b \`c\` &lt;script>\|x&lt;/script> ![y]\(http://z)"
    cells = pd.DataFrame({hostile: [hostile]}, index=pd.Index([hostile], name=hostile))
    blocks: list[Block] = [
        TextTable(cells),
        Paragraph(hostile),
        BulletList([hostile]),
        Picture(b"PNG", hostile, "plot.png"),
    ]
    lines = Document(hostile, [Section(hostile, blocks)]).markdown().splitlines()
    assert [line for line in lines if line and not line.startswith("|")] == [
        f"# {safe}",
        f"## {safe}",
        safe,
        f"- {safe}",
        f"![{safe}](plot.png)",
    ]
    assert [line.count(safe) for line in lines if line.startswith("|")] == [2, 0, 2]


def test_a_code_holds_what_it_is_given():
    assert (code("a\nb"), code("`"), code("a ``` b")) == ("`a b`", "`` ` ``", "```` a ``` b ````")
