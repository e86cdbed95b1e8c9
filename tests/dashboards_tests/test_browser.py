"""Every page in a real browser: nothing complains, nothing leaves the machine, keyboard and labels work."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from optuna.study import Study
from playwright.sync_api import Browser, Page

from dashboards import compare
from dashboards.report import write_report
from dashboards.rows import cell
from study.curves import CurveWriter
from study.search.incremental import engine_of
from study.search.joining import open_session
from tests.dashboards_tests.browser import chromium, drawn, served, until
from tests.dashboards_tests.conftest import EVIL, LINEAR, make_study
from tests.dashboards_tests.test_site import query

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LINEAR_QUERY = query("0/linear", group="loss")
PATHS = ["/", *(f"/{page}?{LINEAR_QUERY}" for page in ("compare", "curves", "gallery", "changes", "jobs")),
         f"/compare?{query('1/' + EVIL)}", f"/compare?{query('1/empty')}", f"/jobs?{query('1/running')}",
         "/compare?study=0/absent"]  # fmt: skip
DESKTOP, PHONE = (1280, 900), (375, 740)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(databases: list[str]) -> Iterator[str]:
    with served(databases) as (_, address):
        yield address


@contextmanager
def static(folder: Path) -> Iterator[str]:
    """Serve a folder as another site; yield its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Watched:
    """A page that remembers what it complained about and whom it asked."""

    def __init__(self, browser: Browser, size: tuple[int, int], scheme: str = "light") -> None:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on(
            "console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text)
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, url: str) -> Page:
        """Go there and scroll down until every chart is drawn."""
        self.page.goto(url)
        drawn(self.page)
        return self.page


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("path", PATHS)
def test_every_page(browser: Browser, server: str, path: str, size: tuple[int, int]) -> None:
    watched = Watched(browser, size)
    page = watched.open(server + path)
    expected = ["status of 400"] if "absent" in path else []
    assert [c for c in watched.complaints if not any(e in c for e in expected)] == []
    assert {
        urlsplit(url).hostname for url in watched.asked if not url.startswith(("data:", "blob:"))
    } == {"127.0.0.1"}
    assert page.locator(".wrong").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, found.generate_report()
    page.context.close()


def test_numbers_on_the_page_are_the_frames(
    browser: Browser, server: str, linear_study: Study
) -> None:
    page = Watched(browser, DESKTOP).open(f"{server}/compare?{LINEAR_QUERY}")
    rows = "[...document.querySelectorAll('[aria-label={0}] tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    frame = compare.trials(linear_study)
    groups = compare.group_table(frame, "loss")
    assert page.evaluate(rows.format("groups")) == [
        [cell(value) for value in row] for row in groups.itertuples(index=False, name=None)
    ]
    ranked = frame.sort_values("value", ascending=False, kind="stable")
    shown = page.evaluate(rows.format("trials"))
    assert [row[:3] for row in shown] == [
        [str(r.number), r.state, cell(r.value)] for r in ranked.itertuples()
    ]
    best = "document.querySelector('[data-figure^=\"/figure/history\"]')._fullData"
    lines = page.evaluate(
        f"{best}.filter(t => t.mode === 'lines').map(t => [t.name, Math.max(...t.y)])"
    )
    assert dict(lines) == {f"best of {r.loss}": r.best for r in groups.itertuples() if r.complete}
    page.context.close()


def test_dark_pages_are_readable(browser: Browser, server: str) -> None:
    watched = Watched(browser, DESKTOP, "dark")
    page = watched.open(server + f"/compare?{LINEAR_QUERY}")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 29)"
    assert (
        page.locator(".chart.done .bg, .chart.done .main-svg").first.evaluate(
            "e => e.style.background"
        )
        == "rgb(20, 23, 29)"
    )
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert found.violations_count == 0, found.generate_report()
    page.context.close()


def test_the_keyboard_reaches_everything(browser: Browser, server: str) -> None:
    page = Watched(browser, DESKTOP).open(server + f"/curves?{LINEAR_QUERY}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    names = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {"key", "right", "along", "smooth", "filter", "log"} <= names
    page.context.close()


def test_a_row_lights_its_curve_up(browser: Browser, server: str) -> None:
    page = Watched(browser, DESKTOP).open(server + f"/curves?{LINEAR_QUERY}")
    count = "document.querySelector('.chart').data.filter(t => t.name === 'chosen').length"
    assert page.evaluate(count) == 0
    page.locator('[data-trial="0/linear:2"] a').focus()
    until(page, f"{count} === 1")
    lit = page.evaluate("Array.from(document.querySelector('.chart').data.at(-1).y)")
    curve = page.evaluate(
        "fetch('/table/curves.csv' + location.search).then(a => a.text()).then(t => t.split('\\n'))"
    )
    rows = [line.split(",") for line in curve]
    place = rows[0].index("value")
    assert lit == [float(row[place]) for row in rows if row[:2] == ["0/linear", "2"]]
    page.context.close()


def test_there_and_back(browser: Browser, server: str) -> None:
    page = Watched(browser, DESKTOP).open(
        server + f"/curves?{query('0/linear', trial='0/linear:2')}"
    )
    page.get_by_role("link", name="Optuna Dashboard").click()
    page.get_by_text("Trial 2").first.wait_for()
    assert page.url.endswith("/dashboard/studies/1/trials?numbers=2")
    page.get_by_role("link", name="Jigsaw").click()
    page.wait_for_url("**/curves?study=0%2Flinear&trial=0%2Flinear%3A2")
    page.context.close()


def test_a_running_trial_grows(browser: Browser, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'live.db'}"
    study = make_study(url, "live", LINEAR, 2)
    session = open_session(url, "live", {})
    session.ask({})
    session.record(100, 0.25, {})
    with served([url]) as (_, server):
        watched = Watched(browser, DESKTOP)
        page = watched.open(server + f"/curves?{query('0/live')}")
        uid = study.get_trials(deepcopy=False)[2].user_attrs["uid"]
        writer = CurveWriter(engine_of(study), uid)
        writer._started -= 100  # as if the trial had run for a while
        writer.add(200, {"accuracy": 0.5})
        writer.flush()
        points = "(document.querySelector('.chart').data.find(t => t.meta && t.meta.trial === '0/live:2') || {x: []}).x"
        until(page, f"{points}.includes(200)")
        until(page, "document.getElementById('status').textContent.includes('new point')")
        assert watched.complaints == []
        page.context.close()
    session.abandon("over")


EVIL_PAGE = """<form method="post" action="{0}/commands" enctype="text/plain" target="sent">
<input name='{{"trial":"0/live:2","verb":"stop","x":"' value='"}}'></form><iframe name="sent"></iframe>
<script>
document.querySelector("form").submit();
fetch("{0}/commands", {{method: "POST", mode: "no-cors", body: '{{"trial":"0/live:2","verb":"stop"}}'}});
fetch("{0}/jobs").then(a => a.text()).then(t => document.title = t, () => document.title = "refused");
</script>"""


def test_a_command_from_the_page_and_none_from_another(browser: Browser, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'live.db'}"
    make_study(url, "live", LINEAR, 2)
    session = open_session(url, "live", {})
    session.ask({})
    session.record(100, 0.25, {})
    (tmp_path / "evil").mkdir()
    with served([url]) as (_, server), static(tmp_path / "evil") as other:
        (tmp_path / "evil" / "index.html").write_text(EVIL_PAGE.format(server))
        evil = Watched(browser, DESKTOP)
        with evil.page.expect_response(f"{server}/commands") as answered:
            evil.page.goto(other)
        assert answered.value.status == 403
        until(evil.page, "document.title === 'refused'")
        watched = Watched(browser, PHONE)
        page = watched.open(f"{server}/jobs?{query('0/live')}")
        assert page.get_by_text("Commands and their answers").count() == 0
        page.locator("[name=verb]").select_option("stop")
        page.locator("[name=at_epoch]").fill("1e9")
        page.get_by_role("button", name="Send").focus()
        page.keyboard.press("Enter")
        until(
            page, "document.getElementById('status').textContent.startsWith('queued as command 1 ')"
        )
        until(page, "document.getElementById('live').textContent.includes('epoch 1e+09')")
        page.locator("[name=verb]").select_option("set")
        page.get_by_role("button", name="Send").click()
        until(
            page,
            "document.querySelector('#status.bad')?.textContent.startsWith('set takes NAME=VALUE')",
        )
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
        assert found.violations_count == 0, found.generate_report()
        page.context.close()
    session.abandon("over")


def test_the_report(browser: Browser, linear_study: Study, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(linear_study, path)
    watched = Watched(browser, PHONE)
    page = watched.open(path.as_uri())
    figures = page.locator('script[type="application/json"]').count()
    assert page.locator(".js-plotly-plot").count() == figures > 8
    assert watched.complaints == []
    assert [u for u in watched.asked if not u.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    page.context.close()
