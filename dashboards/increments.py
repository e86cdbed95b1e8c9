"""What is new since a cursor: points of running trials, and trials that began or ended."""

import json
from typing import Any

import pandas as pd

from dashboards.curves import smoothed
from dashboards.selection import Selection
from dashboards.sources import Source
from study.errors import UsageError
from study.search.frames import points_frame
from study.search.records import count_trials, read_live

__all__ = ["increments"]


def increments(s: Selection, cursor: str) -> dict[str, Any]:
    """Return `points`, `states` and the next `cursor`.

    `points` are rows [trial, key, x, y] of trials that ran at the cursor or began since; `states` maps
    their keys to their states. A first call, with no cursor, returns no points: its cursor says where
    every trial is now.

    Args:
        s: what is selected; filters do not hold for trials that are still to come.
        cursor: what the last call returned, or nothing.

    Raises:
        UsageError: the cursor cannot be read.
    """
    old = _read(cursor)
    new: dict[str, Any] = {}
    points: list[list[Any]] = []
    states: dict[str, str] = {}
    for source in s.sources:
        rows, new[source.key] = _of_study(s, source, old.get(source.key))
        points += rows
        states |= {f"{source.key}:{n}": state for n, state in new[source.key].pop("states").items()}
    return {"points": points, "states": states, "cursor": json.dumps(new, separators=(",", ":"))}


def _of_study(
    s: Selection, source: Source, old: dict[str, Any] | None
) -> tuple[list[list[Any]], dict[str, Any]]:
    """Return new points of one study, and its part of the cursor: the newest trial, and where each runs."""
    known = {int(n): float(at) for n, at in (old or {}).get("at", {}).items()}
    newest = int((old or {}).get("newest", -1))
    with source.database.reading() as engine:
        if old is None:
            newest = count_trials(engine, source.id) - 1  # numbers have no gaps
        live = read_live(engine, source.id, newest, list(known))
        ids = [row[0] for row in live if row[2] != "waiting"]
        uids = source.uids(engine, ids)
        trials = pd.DataFrame(
            [(i, n, state, uids.get(i)) for i, n, state in live if i in set(ids)],
            columns=["trial_id", "number", "state", "uid"],
        )
        keys = [*(s.view.key or (source.metric,)), *s.view.right]
        # An average needs the whole curve; a plain trial's few points have no seconds to ask by.
        since = (
            None
            if s.view.smooth or trials["uid"].isna().any()
            else min(known.values(), default=-1.0)
        )
        found = points_frame(engine, trials, keys, source.metric, after=since)
    found = smoothed(found.assign(study=source.key), s.view.smooth)
    found["number"] = found["number"].astype(int)
    found["at"] = found["seconds"].fillna(found["step"].astype(float))
    at = found.groupby("number")["at"].max()
    states = dict(zip(trials["number"], trials["state"], strict=True))
    running = [n for n, state in states.items() if state == "running"]
    following = {
        "newest": max([newest, *(n for _, n, _ in live)]),
        "at": {n: max(float(at.get(n, -1.0)), known.get(n, -1.0)) for n in running},
        "states": states,
    }
    if old is None:
        return [], following
    fresh = found[found["at"] > found["number"].map(known).fillna(-1.0)]
    shown = fresh.dropna(subset=["value", s.view.along])
    rows = [
        [f"{source.key}:{n}", key, x, y]
        for n, key, x, y in zip(shown["number"], shown["key"], shown[s.view.along].astype(float), shown["value"],
                                strict=True)
        if not s.view.trial or f"{source.key}:{n}" in s.view.trial
    ]  # fmt: skip
    return rows, following


def _read(cursor: str) -> dict[str, Any]:
    try:
        found = json.loads(cursor or "{}")
        for part in found.values():
            {int(n): float(at) for n, at in part["at"].items()}, int(part["newest"])
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UsageError(
            f"cursor {cursor[:80]!r} is none; send what the last answer held"
        ) from None
    return dict(found)
