"""Keep pictures of the pages for the documents: make screenshots, after make demo."""

import os
import sys

from playwright.sync_api import Page

from tests.conftest import ROOT
from tests.dashboards_tests.browser import chromium, drawn, served

PAGES = {
    "compare": "group=arch.name",
    "curves": "",
    "gallery": "",
    "jobs": "",
}
SIZE = (1200, 1300)


def keep(page: Page, address: str, name: str) -> None:
    page.goto(f"{address}/{name}?study=0/demo&{PAGES[name]}")
    drawn(page)
    page.screenshot(path=ROOT / "docs" / "images" / f"{name}.png")


def main() -> None:
    url = os.environ.get("OPTUNA_STORAGE", f"sqlite:///{ROOT}/runs/demo/study.db")
    with served([url]) as (_, address), chromium() as browser:
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        for name in sys.argv[1:] or PAGES:
            keep(page, address, name)


if __name__ == "__main__":
    main()
