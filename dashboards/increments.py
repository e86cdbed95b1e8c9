"""What is new since a cursor: points of running trials, and trials that began or ended."""

import json
from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from dashboards.curves import curve_keys, placed, smoothed
from dashboards.selection import Selection
from dashboards.sources import Source
from study.curves import read_points
from study.errors import UsageError
from study.search.frames import points_frame
from study.search.records import count_trials, read_live

__all__ = ["increments"]

# number, key, x, y, and where in the trial: seconds since its start, or the step of a plain trial
_Point = tuple[int, str, float, float, float]


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
        begun = [trial for trial in live if trial[2] != "waiting"]
        points = _points(s, source, engine, begun, min(known.values(), default=-1.0))
    at = {n: known.get(n, -1.0) for _, n, state in begun if state == "running"}
    for n, _, _, _, where in points:
        if n in at:
            at[n] = max(at[n], where)
    following = {
        "newest": max([newest, *(n for _, n, _ in live)]),
        "at": at,
        "states": {n: state for _, n, state in begun},
    }
    rows = [
        [f"{source.key}:{n}", key, x, y]
        for n, key, x, y, where in points
        if old is not None and where > known.get(n, -1.0) and isfinite(x) and isfinite(y)
        if not s.view.trial or f"{source.key}:{n}" in s.view.trial
    ]
    return rows, following


def _points(
    s: Selection,
    source: Source,
    engine: Engine,
    trials: Sequence[tuple[int, int, str]],
    after: float,
) -> list[_Point]:
    """Return the points of some trials later than `after`, or all of them where that cannot be asked."""
    uids = source.uids(engine, [i for i, _, _ in trials])
    along, wanted = s.view.along, [*(s.view.key or (source.metric,)), *s.view.right]
    keys = curve_keys(wanted, along)
    # An average needs the whole curve; a plain trial's few points have no seconds to ask by.
    if not s.view.smooth and len(uids) == len(trials):
        number = {uids[i]: n for i, n, _ in trials}
        found = read_points(engine, list(number), keys, after=after)
        where = {(uid, step): y for uid, key, step, y, _ in found if key == along}
        return [
            (number[uid], key, x, y, at)
            for uid, key, step, y, at in found
            if key in wanted
            for x in [{"step": float(step), "seconds": at}.get(along, where.get((uid, step), nan))]
        ]
    frame = pd.DataFrame(trials, columns=["trial_id", "number", "state"])
    frame["uid"] = frame["trial_id"].map(uids)
    points = points_frame(engine, frame, keys, source.metric).assign(study=source.key)
    points = smoothed(placed(points, along), s.view.smooth)
    points["at"] = points["seconds"].fillna(points["step"].astype(float))
    rows = points.loc[points["key"].isin(wanted), ["number", "key", "x", "value", "at"]]
    return list(rows.itertuples(index=False, name=None))


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
