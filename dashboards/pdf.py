"""A chart as a PDF: printed by a browser of this machine, so that lines and letters stay what they are."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.page import Html, asset, chart, tag
from study.errors import UsageError

__all__ = ["chart_pdf"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_WIDTH, _HEIGHT = 800, 450  # CSS pixels, 96 per inch
_SECONDS = 90
_ONE = Lock()  # a browser takes more memory than all the rest of the server


def chart_pdf(figure: go.Figure) -> bytes:
    """Return a figure as a PDF of one page, 800 pixels (8.3 inches) wide.

    Raises:
        UsageError: this machine has no Chromium or Chrome, or it prints nothing.
    """
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        raise UsageError(
            "PDF is printed by Chromium or Chrome, and this machine has none: "
            "apt-get install chromium, or take SVG from the chart's own menu"
        )
    with TemporaryDirectory(prefix="jigsaw-") as folder, _ONE:
        source, target = Path(folder, "chart.html"), Path(folder, "chart.pdf")
        source.write_text(_sheet(figure), encoding="utf-8")
        said = _print(program, folder, source, target)
        if not target.is_file():
            raise UsageError(
                f"{program} printed no PDF ({said}); take SVG from the chart's own menu"
            )
        return target.read_bytes()


def _print(program: str, folder: str, source: Path, target: Path) -> str:
    # Chromium refuses root its sandbox; the page is our own.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [program, "--headless", "--disable-gpu", *root, f"--user-data-dir={folder}/profile",
               "--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri()]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603  a program of the path, with names of our own
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_SECONDS} seconds"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _sheet(figure: go.Figure) -> str:
    height = int(figure.layout.height or _HEIGHT)
    sized = go.Figure(figure).update_layout(width=_WIDTH, height=height)
    style = f"@page {{ size: {_WIDTH}px {height}px; margin: 0 }} body {{ margin: 0 }}"
    head = tag("head", tag("meta", charset="utf-8"), tag("style", Html(style)))
    scripts = [tag("script", Html(text)) for text in (get_plotlyjs(), asset("charts.js"))]
    whole = tag("html", head, tag("body", chart(sized, "chart"), *scripts))
    return f"<!DOCTYPE html>\n{whole.text}"
