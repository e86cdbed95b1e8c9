"""The page escapes what it did not make, and its policy admits its own two scripts only."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.page import Html, chart, grid, page, picture, section, table, tag


class Reader(HTMLParser):
    """Collects text and elements; void elements are not closed, all others must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\0:")))
def test_text_and_attributes_survive_and_make_no_elements(text: str) -> None:
    reader = read(tag("p", text, title=text).text)
    assert [name for name, _ in reader.seen] == ["p"]
    assert reader.seen[0][1]["title"] == text
    assert "".join(reader.text) == text


@pytest.mark.parametrize(
    ("made", "html"),
    [
        (tag("b", "a & b"), "<b>a &amp; b</b>"),
        (tag("b", Html("<i>x</i>")), "<b><i>x</i></b>"),
        (tag("meta", name_="a", http_equiv="b"), '<meta name="a" http-equiv="b">'),
        (tag("p", class_='"'), '<p class="&quot;"></p>'),
        (section("<T>", "x"), "<section><h2>&lt;T&gt;</h2>x</section>"),
        (grid([tag("i")], kind="two"), '<div class="grid two"><i></i></div>'),
        (
            table(["h"], [["<a>", "b"]]),
            '<div class="wide" tabindex="0" role="region" aria-label="table"><table>'
            '<thead><tr><th scope="col">h</th></tr></thead>'
            '<tbody><tr><th scope="row">&lt;a&gt;</th><td>b</td></tr></tbody></table></div>',
        ),
        (
            picture(b"png", "<c>"),
            '<figure><img src="data:image/png;base64,cG5n" alt="&lt;c&gt;">'
            "<figcaption>&lt;c&gt;</figcaption></figure>",
        ),
    ],
)
def test_elements(made: Html, html: str) -> None:
    assert made.text == html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("at mysql+pymysql://me:s@cr@t@host/db now", "at mysql+pymysql://me:***@host/db now"),
        ("redis://:secret@host", "redis://:***@host"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("a: b@c", "a: b@c"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert tag("p", text).text == f"<p>{shown}</p>"


def test_figures_cannot_leave_their_script() -> None:
    made = chart(
        go.Figure(layout={"title": {"text": "</script><!--<script>"}, "height": 50}), "<t>"
    )
    reader = read(made.text)
    assert [name for name, _ in reader.seen] == ["div", "div", "script"]
    assert reader.seen[1][1]["aria-label"] == "<t>"
    assert reader.seen[1][1]["style"] == "min-height:50px"
    assert reader.seen[2][1]["type"] == "application/json"


def test_the_policy_admits_the_scripts_of_the_page() -> None:
    text = page("<t>", tag("p", "x"))
    reader = read(text)
    policy = next(a["content"] for _, a in reader.seen if "http-equiv" in a)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    assert "plotly.js" in scripts[0][:200]
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe" not in str(policy).split("script-src")[1]
    assert "".join(reader.text).count("<t>") == 1
