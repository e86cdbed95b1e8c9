"""How fast the dashboards answer on large studies, beside optuna-dashboard and Study.trials_dataframe.

make bench-dashboards            # 5,000 trials x 20 reports, then 50,000 trials
QUICK=1 make bench-dashboards    # 1,000 trials only
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from urllib.parse import urlencode

import optuna
import optuna_dashboard
from flask.testing import FlaskClient
from werkzeug.test import Client

from benchmarks.claims import Claim, write
from benchmarks.synthetic import large_study
from dashboards.site import make_site
from dashboards.sources import Database, Sources, open_sources
from study.search.frames import trials_frame
from study.search.storage import open_storage
from study.search.studies import load_study

ROUNDS = 3
STUDY = urlencode({"study": "0/big"})


def timed(act: Callable[[], Any]) -> float:
    """Return milliseconds of processor time: what the server does, whoever else uses the machine."""
    start = time.process_time()
    act()
    return (time.process_time() - start) * 1000


def rounds(*acts: Callable[[], Any], count: int = ROUNDS) -> list[float]:
    """Return the median processor milliseconds of each act, run in turns."""
    found = [[timed(act) for act in acts] for _ in range(count)]
    return [median(column) for column in zip(*found, strict=True)]


def client(url: str) -> FlaskClient:
    site = make_site(open_sources([url]))
    site.testing = True
    return site.test_client()


def optuna_api(url: str) -> Callable[[], bytes]:
    """Return a first visit of a fresh optuna-dashboard: the study with all its trials."""
    return lambda: (
        Client(optuna_dashboard.wsgi(open_storage(url))).get("/api/studies/1?after=0").data
    )


def vanilla_frame(url: str) -> Callable[[], Any]:
    return lambda: optuna.load_study(storage=open_storage(url), study_name="big").trials_dataframe()


def first_page(url: str) -> Callable[[], Any]:
    """Return a visit of a server that has the database open and no trial in memory."""
    engine = open_storage(url).engine
    return lambda: make_site(Sources([Database(engine, "")])).test_client().get(f"/compare?{STUDY}")


def increment(url: str) -> Callable[[], Any]:
    pages = client(url)
    cursor = pages.get(f"/increments?{STUDY}").get_json()["cursor"]
    where = f"/increments?{STUDY}&{urlencode({'cursor': cursor})}"
    return lambda: json.loads(pages.get(where).data)


def curves(url: str) -> Callable[[], Any]:
    pages = client(url)
    pages.get(
        f"/table/groups.csv?{STUDY}"
    )  # the trials are in memory, as when a reader comes to curves

    def view() -> Any:
        return pages.get(f"/figure/curves.json?{STUDY}")

    view()
    return view


def measure(trials: int, *, beside: bool, count: int = ROUNDS) -> list[Claim]:
    """Return claims about a study of so many trials; those beside others have the goals."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/big.db"
        large_study(url, "big", trials)
        study = load_study(url, "big")
        first_page(url)()  # imports and compiled statements are not what is measured
        others = (optuna_api(url), vanilla_frame(url)) if beside else ()
        page, frame, *rest = rounds(
            first_page(url), lambda: trials_frame(study), *others, count=count
        )
        news, view = rounds(increment(url), curves(url), count=7 * count)
        size = len(first_page(url)().data) / 1000
        whole = len(optuna_api(url)()) / 1000 if beside else None
    api, vanilla = rest or (None, None)
    goals = beside
    at = f"{trials:,} trials"

    def goal(value: float) -> float | None:
        return value if goals else None

    server = "on the server"
    return [
        Claim(f"first page, cold, {at}", page, "ms cpu", goal(200), baseline="optuna-dashboard: the study, cold",
              baseline_value=api, note=server),
        Claim(f"first page, {at}", size, "kB", goal(300), baseline="optuna-dashboard: the study",
              baseline_value=whole, note="before charts load"),
        Claim(f"increment of 8 running trials, {at}", news, "ms cpu", goal(10), note=server),
        Claim(f"view of 200 curves, {at}", view, "ms cpu", goal(150), note=f"{server}, trials in memory"),
        Claim(f"frame of all trials, {at}", frame, "ms cpu", goal(500), baseline="Study.trials_dataframe, cold",
              baseline_value=vanilla, note="cold"),
    ]  # fmt: skip


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if os.environ.get("QUICK"):
        claims = measure(1000, beside=True)
    else:
        claims = [*measure(5000, beside=True), *measure(50_000, beside=False)]
    made_by = {
        "seeds": 0,
        "time": "processor time of the server",
        "database": "SQLite",
        "rounds": ROUNDS,
    }
    write("dashboards", claims, made_by)


if __name__ == "__main__":
    main()
