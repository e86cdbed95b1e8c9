"""A real Chromium for tests, driven without downloading one."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import ROOT

__all__ = ["chromium", "drawn", "served", "until"]

# A suite that a shell runs in the background ignores Ctrl-C, and so does what it starts, unless told.
_SERVE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dashboards.commands import dashboard
from study.launch import run
sys.exit(run(sys.argv[1:], dashboard))
"""

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """Lend a headless browser with an empty profile; skip, saying so, where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(databases: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run `jigsaw dashboard` in a process of its own; yield it and the address it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, *databases, "--port", "0"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    with process:
        line = process.stderr.readline()
        try:
            assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
            yield process, line.split("/ ")[0]
        finally:
            process.kill()


def until(page: Page, expression: str, seconds: float = 60) -> None:
    """Wait for an expression to be true; the page's policy forbids Playwright's own way, which is eval."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def drawn(page: Page) -> None:
    """Scroll down a page until every chart is drawn, and back."""
    places = page.locator("[data-figure]")
    for i in range(places.count()):
        places.nth(i).scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('[data-figure]')]"
                ".every(p => p.matches('.done') || p.querySelector('.wrong'))")  # fmt: skip
    page.evaluate("window.scrollTo(0, 0)")
