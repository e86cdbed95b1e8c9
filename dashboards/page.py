"""One self-contained HTML page: text is escaped unless it was made here, and nothing is loaded.

The page's own content security policy forbids every request and every script but its two.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

__all__ = ["Html", "chart", "grid", "page", "picture", "section", "table", "tag"]


@dataclass(frozen=True)
class Html:
    """Text that is HTML already. Whatever is plain `str` gets escaped."""

    text: str


Content = Html | str

_VOID = frozenset(("img", "meta"))
_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*@")

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: #fff; color: #1f2430;
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .6rem; padding-bottom: .25rem; font-size: 1.15rem; border-bottom: 2px solid #0072B2; }
p { margin: .5rem 0; max-width: 48rem; overflow-wrap: anywhere; }
.quiet, figcaption { color: #5b6270; font-size: .9rem; }
.note { white-space: pre-wrap; border-left: 3px solid #d4d8e0; padding-left: .8rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.facts div { flex: 1 1 7rem; padding: .6rem .8rem; background: #f4f6f9; border-radius: .4rem; }
.facts b { display: block; font-size: 1.35rem; line-height: 1.3; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e6ec;
  overflow-wrap: anywhere; }
td .quiet { white-space: nowrap; }
thead th { white-space: nowrap; border-bottom: 2px solid #b9bfcb; }
tbody th { position: sticky; left: 0; background: #fff; font-weight: 500; white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .5rem 1rem; }
.grid.two { grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
.chart { min-width: 0; width: 100%; }
figure { margin: .8rem 0; }
figure img { display: block; width: 100%; max-width: 64rem; height: auto; image-rendering: pixelated;
  border: 1px solid #d4d8e0; }
@media print { .chart, figure, tr { break-inside: avoid; } }
"""
_DRAW = """
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(data.previousElementSibling, figure.data, figure.layout,
    { responsive: true, displaylogo: false, modeBarButtons: [['toImage', 'resetScale2d']] });
}
"""


def tag(name: str, /, *children: Content, **attributes: str) -> Html:
    """Return an element; `class_` stands for `class`, text and attribute values are escaped."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    inside = "".join(_render(child) for child in children)
    return Html(f"<{name}{pairs}>" + ("" if name in _VOID else f"{inside}</{name}>"))


def section(title: str, *children: Content) -> Html:
    """Return a part of the page under a heading."""
    return tag("section", tag("h2", title), *children)


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]]) -> Html:
    """Return a table that scrolls sideways by itself where it is wider than the page.

    Args:
        head: column titles; empty for none.
        rows: cells; the first of each row is its title.
    """
    body = [
        tag("tr", tag("th", row[0], scope="row"), *[tag("td", c) for c in row[1:]]) for row in rows
    ]
    top = [tag("thead", tag("tr", *[tag("th", c, scope="col") for c in head]))] if head else []
    return tag("div", tag("table", *top, tag("tbody", *body)), class_="wide")


def chart(figure: go.Figure, title: str) -> Html:
    """Return the place of a figure and, after it, its data, which a script of the page draws.

    Args:
        figure: what is drawn.
        title: what those hear who do not see it.
    """
    data = figure.to_json()  # Plotly writes "<" as \u003c: nothing in it ends the script
    height = f"min-height:{int(figure.layout.height)}px" if figure.layout.height else ""
    place = tag("div", class_="chart", role="figure", aria_label=title, style=height)
    script = Html(f'<script type="application/json">{data}</script>')
    return tag("div", place, script, class_="panel")


def grid(children: Sequence[Html], *, kind: str = "") -> Html:
    """Return children side by side, as many as fit; `kind` "two" makes them wider."""
    return tag("div", *children, class_=f"grid {kind}".strip())


def picture(png: bytes, caption: str) -> Html:
    """Return a PNG, inside the page, with its caption."""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return tag("figure", tag("img", src=source, alt=caption), tag("figcaption", caption))


def page(title: str, *children: Content) -> str:
    """Return the whole page, with Plotly's library in it once."""
    library = get_plotlyjs()
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_fingerprint(library)} {_fingerprint(_DRAW)}; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    scripts = [tag("script", Html(library)), tag("script", Html(_DRAW))]
    whole = tag("html", head, tag("body", tag("main", *children), *scripts), lang="en")
    return f"<!DOCTYPE html>\n{whole.text}\n"


def _render(content: Content) -> str:
    if isinstance(content, Html):
        return content.text
    return html.escape(_PASSWORD.sub(r"\1***@", content))


def _fingerprint(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
