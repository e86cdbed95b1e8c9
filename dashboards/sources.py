"""Databases and the studies in them, read while workers write; what is settled is read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

import pandas as pd
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from dashboards.compare import study_trials
from study.errors import JigsawError, UsageError
from study.search.overview import read_names, read_studies
from study.search.records import read_attributes, trial_ids
from study.search.storage import open_storage, printable

__all__ = ["Away", "Database", "Source", "Sources", "open_sources"]

_FRESH = 0.5  # seconds: the charts of one page are drawn from one reading
_LIVE = ("running", "waiting")


class Away(JigsawError):
    """A database does not answer; it may come back."""


@dataclass(frozen=True)
class Database:
    """One database.

    Attributes:
        engine: how it is reached.
        shown: its URL, without a password.
    """

    engine: Engine
    shown: str

    @contextmanager
    def reading(self) -> Iterator[Engine]:
        """Lend the engine.

        Raises:
            Away: the database does not answer; its connections are dropped, so that the next reader sees
                whatever stands there then.
        """
        file = self.engine.url.database if self.engine.url.get_backend_name() == "sqlite" else None
        try:
            if file and not Path(file).is_file():
                raise FileNotFoundError("the file is gone")  # SQLite would make a new one
            yield self.engine
        except (SQLAlchemyError, OSError) as error:
            self.engine.dispose()
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise Away(f"{self.shown} does not answer ({reason}); trying again") from None


@dataclass(frozen=True)
class Source:
    """A study that is read again and again.

    Attributes:
        key: `DATABASE/NAME`: how URLs name it.
        database: where it lies.
        id: its id there.
        name: its name.
        metric: what its value is called.
        maximize: whether larger values are better.
        objectives: how many values it optimises; the first counts here.
    """

    key: str
    database: Database
    id: int
    name: str
    metric: str
    maximize: bool
    objectives: int
    _lock: Lock = field(default_factory=Lock, compare=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def trials(self) -> pd.DataFrame:
        """Return `dashboards.compare.study_trials`, of which only what may have changed is read."""
        with self._lock, self.database.reading() as engine:
            if monotonic() - self._kept.get("read", -_FRESH) >= _FRESH:
                self._kept["frame"] = self._read(engine)
                self._kept["read"] = monotonic()
            frame: pd.DataFrame = self._kept["frame"]
            return frame

    def uids(self, engine: Engine, ids: Sequence[int]) -> dict[int, str]:
        """Return the `uid` attributes of trials that have one; they never change, and are read once."""
        known: dict[int, str] = self._kept.setdefault("uids", {})
        unknown = [i for i in ids if i not in known]
        if unknown:
            known |= read_attributes(engine, unknown, "uid")
        return {i: known[i] for i in ids if i in known}

    def sample(self, top: int) -> pd.DataFrame:
        """Return the best and the latest trials, from memory or at the cost of a few rows."""
        if "frame" in self._kept:
            return self.trials()
        with self.database.reading() as engine:
            ids = trial_ids(engine, self.id, top=top, maximize=self.maximize)
            return study_trials(engine, self.id, [i for i, _, _ in ids])

    def _read(self, engine: Engine) -> pd.DataFrame:
        found = {i: (number, state) for i, number, state in trial_ids(engine, self.id)}
        old: pd.DataFrame | None = self._kept.get("frame")
        if old is None:
            return study_trials(engine, self.id)
        settled = old[~old["state"].isin(_LIVE)]
        if any(found.get(i) != (n, s) for i, n, s in zip(
            settled["trial_id"], settled["number"], settled["state"], strict=True
        )):  # fmt: skip
            return study_trials(engine, self.id)  # another study took its place
        wanted = sorted(found.keys() - set(settled["trial_id"]))
        if not wanted:
            return old
        fresh = study_trials(engine, self.id, wanted)
        both = [part for part in (settled, fresh) if len(part)]
        return pd.concat(both).sort_values("number", ignore_index=True)


class Sources:
    """The studies of some databases.

    Args:
        databases: pages name them by their place, from 0.
    """

    def __init__(self, databases: Sequence[Database]) -> None:
        self.databases = databases
        self._known: dict[tuple[str, int], Source] = {}

    def studies(self) -> pd.DataFrame:
        """Return `study.search.overview.read_studies` of every database, with `key` and `database`.

        Raises:
            Away: a database does not answer.
        """
        frames = []
        for place, database in enumerate(self.databases):
            with database.reading() as engine:
                found = read_studies(engine)
            keys = [f"{place}/{name}" for name in found["name"]]
            frames.append(found.assign(key=keys, database=place))
        filled = [frame for frame in frames if len(frame)]
        return pd.concat(filled or frames[:1], ignore_index=True)

    def find(self, keys: Sequence[str]) -> list[Source]:
        """Return studies by their keys, each once, or all of them where none is named.

        Raises:
            UsageError: there is no such study.
            Away: a database does not answer.
        """
        known = self._current() if keys else {}
        if not keys or any(key not in known for key in keys):
            known = {row["key"]: self._source(row) for row in self.studies().to_dict("records")}
        for key in keys:
            if key not in known:
                raise UsageError(
                    f"study {key!r} is not here; there are: {', '.join(known) or 'none'}"
                )
        return [known[key] for key in dict.fromkeys(keys or known)]

    def _current(self) -> dict[str, Source]:
        """Return the sources that were found before and are still what their databases hold."""
        found = {}
        for place, database in enumerate(self.databases):
            with database.reading() as engine:
                names = read_names(engine)
            for study, name in names.items():
                source = self._known.get((f"{place}/{name}", study))
                if source is not None:
                    found[source.key] = source
        return found

    def _source(self, row: Any) -> Source:
        known = (row["key"], row["id"])
        if known not in self._known:
            self._known[known] = Source(
                row["key"], self.databases[row["database"]], row["id"], row["name"], row["metric"],
                row["maximize"], row["objectives"],
            )  # fmt: skip
        return self._known[known]


def open_sources(urls: Sequence[str]) -> Sources:
    """Open databases.

    Args:
        urls: what `study.search.storage.open_storage` opens.

    Raises:
        UsageError: one of them cannot be opened.
    """
    return Sources([Database(open_storage(url).engine, printable(url)) for url in urls])
