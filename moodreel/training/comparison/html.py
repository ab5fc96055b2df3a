"""A document as one HTML file that needs nothing else: no network, no script; for phones, light and dark."""

import base64
from html import escape

from moodreel.training.comparison.document import (
    Answer,
    Block,
    Command,
    Document,
    Heading,
    Paragraph,
    Plot,
    Plots,
    Table,
)
from moodreel.training.comparison.plots import as_svg

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Whatever a name might smuggle in, the page loads and runs nothing."""
_STYLE = """
:root { color-scheme: light dark; --line: #d5d7db; --soft: #f4f5f7; --accent: #3d7ea6; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3d42; --soft: #202226; --accent: #7ab8de; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #1d1d1e;
  background: #fff; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { color: #e8e8ea; background: #131416; } }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.answer { border-left: 4px solid var(--accent); background: var(--soft); padding: .8rem 1rem;
  border-radius: 0 6px 6px 0; }
.answer strong { display: block; font-size: 1.1rem; }
.answer ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; min-width: 100%; }
caption { text-align: left; padding-bottom: .4rem; opacity: .8; }
caption span { display: inline-block; max-width: calc(100vw - 2rem); }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; }
thead th { white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
tbody th { font-weight: 600; white-space: normal; min-width: 7rem; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .3rem .4rem; } }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.plots img { max-width: 100%; height: auto; }
pre { background: var(--soft); padding: .8rem; border-radius: 6px; white-space: pre-wrap; font-size: .85rem; }
"""


def as_page(document: Document) -> str:
    """Write a document as HTML. All text in it is escaped."""
    body = "\n".join(_block(block) for block in document.blocks)
    title = escape(document.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Command(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Answer(sentences):
            first, *others = map(escape, sentences)
            items = "".join(f"<li>{sentence}</li>" for sentence in others)
            return f'<div class="answer"><strong>{first}</strong>{f"<ul>{items}</ul>" if items else ""}</div>'
        case Table():
            return _table(block)
        case Plots(plots):
            return f'<div class="plots">{"".join(map(_image, plots))}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table.rows
    )
    return f"""<div class="wide"><table>
<caption><span>{escape(table.caption)}</span></caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _image(plot: Plot) -> str:
    # An SVG in an <img> runs no script, and looks up light or dark for itself.
    data = base64.b64encode(as_svg(plot.figure)).decode()
    return f'<img alt="{escape(plot.alt)}" src="data:image/svg+xml;base64,{data}">'
