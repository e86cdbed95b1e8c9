"""Workers and trials as they run."""

from datetime import datetime
from typing import Any

import pandas as pd

from dashboards.page import Content, table, tag
from dashboards.pages import cell
from dashboards.selection import Selection
from dashboards.sources import Source
from study.mailbox import read_commands
from study.search.frames import points_frame
from study.search.records import read_attributes

__all__ = ["commands_frame", "jobs_frame", "jobs_page", "workers_frame"]

_RECENT = 40


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


def jobs_page(s: Selection) -> list[Content]:
    """Return the page of workers and trials; its script reads it again every few seconds."""
    parts: list[Content] = []
    for source in s.sources:
        jobs = jobs_frame(source)
        counts = source.trials()["state"].value_counts()
        facts = [tag("div", tag("b", str(n)), str(state)) for state, n in counts.items()]
        parts.append(tag("h2", source.name))
        parts.append(tag("div", *facts, class_="facts") if facts else tag("p", "No trial yet."))
        workers = workers_frame(jobs)
        if len(workers):
            parts.append(_titled("Workers", workers, source.name))
        if len(jobs):
            parts.append(_titled("Trials that run, and the latest", jobs, source.name))
        commands = commands_frame(source)
        if len(commands):
            parts.append(_titled("Commands", commands, source.name))
    said = "Times are this machine's; the page reads itself again every five seconds."
    return [tag("h1", "Jobs"), tag("p", said, class_="quiet"), tag("div", *parts, id="live")]


def _titled(title: str, frame: pd.DataFrame, study: str) -> Content:
    """Return a frame under a heading."""
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return tag(
        "section", tag("h3", title), table([str(c) for c in frame], rows, f"{title} of {study}")
    )


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
