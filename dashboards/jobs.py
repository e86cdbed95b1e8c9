"""Workers and trials as they run, what they printed last, and commands to them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from dashboards.forms import heading
from dashboards.instructions import instruction_form
from dashboards.page import Content, section, table, tag
from dashboards.rows import cell, takeaway
from dashboards.selection import Selection
from dashboards.sources import Source
from dashboards.view import View
from study.mailbox import read_commands
from study.search.frames import points_frame
from study.search.records import read_attributes

__all__ = ["commands_frame", "jobs_frame", "jobs_page", "printed", "workers_frame"]

_RECENT = 40
_MOST_ENDINGS = 8


def jobs_frame(source: Source, now: datetime | None = None) -> pd.DataFrame:
    """Return unfinished and recent trials, as they run: state, host, ranks, seconds, last report and its age.

    Args:
        source: the study.
        now: this machine's time; None: read the clock.
    """
    now = now or datetime.now()
    trials = source.trials()
    live = trials["state"].isin(("running", "waiting"))
    shown = pd.concat([trials[live], trials[~live].tail(_RECENT)])
    ids = shown["trial_id"].tolist()
    with source.database.reading() as engine:
        owners = read_attributes(engine, ids, "owner")
        points = points_frame(
            engine, trials[trials["state"] == "running"], [source.metric], source.metric
        )
    last = points.dropna(subset="value").groupby("number").tail(1).set_index("number")
    rows = [
        _job(row, owners.get(row["trial_id"], {}), last, now) for row in shown.to_dict("records")
    ]
    columns = ["trial", "state", "host", "process", "ranks", "started", "minutes", "step", "value", "report ago (s)",
               "failure"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def workers_frame(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return who works: host, process, the trial that runs, how many of the recent trials were theirs.

    Args:
        jobs: what `jobs_frame` returns.
    """
    known = jobs[jobs["host"] != "-"]
    rows = [
        {"host": host, "process": process, "ranks": part["ranks"].iloc[0],
         "runs": ", ".join(str(n) for n in part.loc[part["state"] == "running", "trial"]) or "-",
         "recent trials": len(part), "failed": int((part["state"] == "fail").sum())}
        for (host, process), part in known.groupby(["host", "process"], sort=False)
    ]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["host", "process", "ranks", "runs", "recent trials", "failed"]
    )


def commands_frame(source: Source) -> pd.DataFrame:
    """Return the commands that trials were given while they ran, and their answers, latest first."""
    trials = source.trials()
    if "uid" not in trials:
        trials = trials.assign(uid=None)
    numbers = dict(zip(trials["uid"], trials["number"], strict=True))
    with source.database.reading() as engine:
        frame = read_commands(engine, trials["uid"].dropna().tolist())
    frame.insert(0, "trial", frame.pop("uid").map(numbers))
    return frame.iloc[::-1].head(_RECENT)


def printed(source: Source) -> dict[int, Mapping[str, str]]:
    """Return what trials that run and trials that failed printed last: by number, then by rank or `log`.

    Those that run come first, then the latest. A trial that runs is known to print only if `jigsaw launch`
    started it.
    """
    trials = source.trials().iloc[::-1]
    running = trials[trials["state"] == "running"]
    failed = trials[trials["state"] == "fail"].head(_MOST_ENDINGS)
    with source.database.reading() as engine:
        logs = read_attributes(engine, running["trial_id"].tolist(), "log")
        ends = read_attributes(engine, failed["trial_id"].tolist(), "tracebacks")
    said = {i: {"log": log} for i, log in logs.items()} | ends
    both = pd.concat([running, failed])
    texts = {n: said.get(i) for i, n in zip(both["trial_id"], both["number"], strict=True)}
    return {int(n): found for n, found in texts.items() if found and isinstance(found, dict)}


def jobs_page(s: Selection, token: str = "") -> list[Content]:
    """Return the page of workers and trials; its script reads it again every few seconds.

    Args:
        s: what is selected.
        token: what proves that a command came from this page.
    """
    running = [
        f"{source.key}:{number}"
        for source in s.sources
        for number in source.trials().query("state == 'running'")["number"]
    ]
    parts = [part for source in s.sources for part in _study(source)]
    said = "Times are this machine's; the page reads itself again every five seconds."
    return [
        heading("Jobs", s.sources),
        tag("p", said, class_="quiet"),
        section("Command a running trial", instruction_form(running, token)),
        tag("div", *parts, id="live", data_live=""),
    ]  # fmt: skip


def _study(source: Source) -> list[Content]:
    jobs = jobs_frame(source)
    counts = source.trials()["state"].value_counts()
    facts = [tag("div", tag("b", str(n)), str(state)) for state, n in counts.items()]
    tables = {
        "commands": ("Commands and their answers", commands_frame(source)),
        "workers": ("Workers", workers_frame(jobs)),
        "jobs": ("Trials that run, and the latest", jobs),
    }
    return [
        tag("h2", source.name),
        tag("div", *facts, class_="facts") if facts else tag("p", "No trial yet."),
        *[
            _titled(name, title, frame, source)
            for name, (title, frame) in tables.items()
            if len(frame)
        ],
        *_printed(source),
    ]


def _printed(source: Source) -> list[Content]:
    found = printed(source)
    parts = [
        tag("details", tag("summary", f"Trial {number}, {'log' if who == 'log' else f'rank {who}'}"),
            tag("pre", str(text), tabindex="0"), id=f"{source.key}:{number}:{who}")
        for number, texts in found.items() for who, text in texts.items()
    ]  # fmt: skip
    return [tag("section", tag("h3", "What trials printed last"), *parts)] if parts else []


def _titled(name: str, title: str, frame: pd.DataFrame, source: Source) -> Content:
    """Return a frame under a heading, with the links that take it away."""
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    shown = table([str(c) for c in frame], rows, f"{title} of {source.name}")
    query = View(study=(source.key,)).query()
    return tag("section", tag("h3", title), shown, takeaway(name, query))


def _job(row: Any, owner: Any, last: pd.DataFrame, now: datetime) -> dict[str, Any]:
    number, started = row["number"], row["datetime_start"]
    running = row["state"] == "running" and not pd.isna(started)
    passed = (now - started).total_seconds() if running else row["seconds"]
    point = last.loc[number] if running and number in last.index else None
    ago = None if point is None or pd.isna(point["seconds"]) else max(passed - point["seconds"], 0)
    mine = owner if isinstance(owner, dict) else {}
    return {
        "trial": number, "state": row["state"], "host": mine.get("host", "-"), "process": mine.get("pid", "-"),
        "ranks": row.get("ranks"), "started": started, "minutes": None if passed is None else passed / 60,
        "step": row["step"] if point is None else point["step"],
        "value": row["value"] if point is None else point["value"], "report ago (s)": ago,
        "failure": str(row.get("failure") or "-")[:200] if row["state"] == "fail" else "-",
    }  # fmt: skip
