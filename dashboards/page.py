"""One self-contained HTML page: text is escaped unless it was made here, and nothing is loaded.

The page's own content security policy forbids every request and every script but its two.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

__all__ = [
    "Content", "Html", "asset", "chart", "grid", "lazy_chart", "page", "picture", "section", "site_page",
    "table", "tag",
]  # fmt: skip


@dataclass(frozen=True)
class Html:
    """Text that is HTML already. Whatever is plain `str` gets escaped."""

    text: str


Content = Html | str

_VOID = frozenset(("img", "input", "link", "meta"))
_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*@")

_ASSETS = Path(__file__).with_name("assets")


def asset(name: str) -> str:
    """Return the text of a file of `dashboards/assets`."""
    return (_ASSETS / name).read_text(encoding="utf-8")


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


def table(
    head: Sequence[Content], rows: Iterable[Sequence[Content]], caption: str = "table"
) -> Html:
    """Return a table that scrolls sideways by itself where it is wider than the page.

    Args:
        head: column titles; empty for none.
        rows: cells; the first of each row is its title.
        caption: what those hear who do not see it.
    """
    body = [
        tag("tr", tag("th", row[0], scope="row"), *[tag("td", c) for c in row[1:]]) for row in rows
    ]
    top = [tag("thead", tag("tr", *[tag("th", c, scope="col") for c in head]))] if head else []
    inside = tag("table", *top, tag("tbody", *body))
    return tag("div", inside, class_="wide", tabindex="0", role="region", aria_label=caption)


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


def lazy_chart(name: str, query: str, title: str) -> Html:
    """Return the place of a chart that the page's script fetches when it comes into sight.

    Args:
        name: one of `dashboards.figures.FIGURES`.
        query: the view's arguments.
        title: what those hear who do not see it.
    """
    place = tag(
        "div",
        class_="chart",
        role="figure",
        aria_label=title,
        data_figure=f"/figure/{name}.json?{query}",
    )
    forms = (("pdf", "PDF", "as a PDF"), ("py", "Python", "as a Python program with its data"))
    links = [
        tag("a", text, href=f"/figure/{name}.{form}?{query}", download=f"{name}.{form}", aria_label=f"{title} {said}")
        for form, text, said in forms
    ]  # fmt: skip
    return tag("div", place, tag("p", *links, class_="take"), class_="panel")


def grid(children: Sequence[Html], *, kind: str = "") -> Html:
    """Return children side by side, as many as fit; `kind` "two" makes them wider."""
    return tag("div", *children, class_=f"grid {kind}".strip())


def picture(png: bytes, caption: str) -> Html:
    """Return a PNG, inside the page, with its caption."""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return tag("figure", tag("img", src=source, alt=caption), tag("figcaption", caption))


def page(title: str, *children: Content) -> str:
    """Return the whole page, with Plotly's library in it once."""
    library, draw = get_plotlyjs(), asset("charts.js")
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_fingerprint(library)} {_fingerprint(draw)}; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(asset("style.css"))),
    )
    scripts = [tag("script", Html(library)), tag("script", Html(draw))]
    whole = tag("html", head, tag("body", tag("main", *children), *scripts), lang="en")
    return f"<!DOCTYPE html>\n{whole.text}\n"


def site_page(title: str, nav: Content, *children: Content) -> str:
    """Return a page of the dashboard, whose style and scripts are files of it."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} - Jigsaw"),
        tag("link", rel="stylesheet", href="/assets/style.css"),
        tag("link", rel="icon", href="data:,"),
        *[
            tag("script", src=f"/assets/{name}", defer="")
            for name in ("plotly.min.js", "charts.js", "dashboard.js")
        ],
    )
    skip = tag("a", "Skip to content", class_="skip", href="#content")
    status = tag("p", id="status", role="status", class_="quiet")
    main = tag("main", *children, id="content", tabindex="-1")
    whole = tag("html", head, tag("body", skip, tag("header", nav), status, main), lang="en")
    return f"<!DOCTYPE html>\n{whole.text}\n"


def _render(content: Content) -> str:
    if isinstance(content, Html):
        return content.text
    return html.escape(_PASSWORD.sub(r"\1***@", content))


def _fingerprint(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
