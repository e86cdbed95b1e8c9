"""A view over its studies: the frames that pages, charts and tables are made of, each read when asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from optuna.distributions import BaseDistribution

from dashboards.choice import choose, finite, is_numeric
from dashboards.compare import combine
from dashboards.sources import Source
from dashboards.view import View
from study.errors import UsageError
from study.evaluations import read_evaluations
from study.search.frames import points_frame
from study.search.records import read_distributions

__all__ = ["Selection"]

_LIVE = ("running", "waiting")
_TRADES = ("l2", "ssim", "seconds_per_image", "parameters", "core_hours", "gpu_hours", "seconds")


@dataclass(frozen=True)
class Selection:
    """What a view selects.

    Attributes:
        view: the view.
        sources: its studies, at least one.
    """

    view: View
    sources: Sequence[Source]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The trials of all studies that pass the filters, with a column `study` of keys."""
        return choose(combine({s.key: s.trials() for s in self.sources}), self.view.filter)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """The error rates of all studies; attacks carry their study's key where there are several."""
        frames = []
        for source in self.sources:
            with source.database.reading() as engine:
                frame = read_evaluations(engine, source.name)
            if len(self.sources) > 1:
                frame["attack"] = source.key + " " + frame["attack"].astype(str)
            frames.append(frame)
        return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)

    @cached_property
    def space(self) -> Mapping[str, BaseDistribution]:
        """What each parameter is drawn from; where studies differ, in the last one."""
        space: dict[str, BaseDistribution] = {}
        for source in self.sources:
            with source.database.reading() as engine:
                space |= read_distributions(engine, source.id)
        return dict(sorted(space.items()))

    @property
    def varied(self) -> list[str]:
        """The parameters that are searched."""
        return [name for name, domain in self.space.items() if not domain.single()]

    @property
    def log(self) -> list[str]:
        """The parameters that are searched on a logarithmic scale."""
        return [name for name, domain in self.space.items() if getattr(domain, "log", False)]

    @property
    def metric(self) -> str:
        """What the value is called: in all studies, else `value`."""
        names = {source.metric for source in self.sources}
        return names.pop() if len(names) == 1 else "value"

    @property
    def maximize(self) -> bool:
        """Whether larger values are better.

        Raises:
            UsageError: in one study they are, in another they are not.
        """
        goals = {source.maximize for source in self.sources}
        if len(goals) > 1:
            up = ", ".join(s.key for s in self.sources if s.maximize)
            raise UsageError(
                f"larger values are better in {up}, and worse in the others: compare them apart"
            )
        return goals.pop()

    @property
    def group(self) -> str:
        """The column whose groups are compared: several studies are their own groups."""
        return self.view.group or ("study" if len(self.sources) > 1 else "")

    @property
    def against(self) -> str:
        """The column that the value is traded against."""
        there = [c for c in _TRADES if c in self.trials and is_numeric(self.trials[c])]
        return self.view.against or (there or ["seconds"])[0]

    def ranked(self) -> pd.DataFrame:
        """Return complete trials with a finite value, best first."""
        frame = self.trials.assign(value=finite(self.trials["value"]))
        frame = frame[frame["state"] == "complete"].dropna(subset="value")
        return frame.sort_values("value", ascending=not self.maximize, kind="stable")

    def chosen(self, most: int) -> pd.DataFrame:
        """Return the trials the view names, or those that run and the best, the latest for the rest.

        Args:
            most: how many at most where the view names none.

        Raises:
            UsageError: a trial it names is not there.
        """
        frame = self.trials
        if not self.view.trial:
            live = frame.index[frame["state"].isin(_LIVE)]
            order = [*live, *self.ranked().index, *frame.index[::-1]]
            return frame.loc[list(dict.fromkeys(order))[:most]]
        keys = frame["study"] + ":" + frame["number"].astype(str)
        places = dict(zip(keys, frame.index, strict=True))
        for trial in self.view.trial:
            if trial not in places:
                raise UsageError(
                    f"trial {trial!r} is not among those shown; write DATABASE/STUDY:NUMBER"
                )
        return frame.loc[[places[trial] for trial in dict.fromkeys(self.view.trial)]]

    def points(self, trials: pd.DataFrame, keys: Sequence[str] | None) -> pd.DataFrame:
        """Return `study.search.frames.points_frame` of trials of several studies, with `study` and `state`.

        Args:
            trials: rows of `trials`.
            keys: the curve keys wanted; None means all.
        """
        frames = []
        for source in self.sources:
            part = trials[trials["study"] == source.key]
            with source.database.reading() as engine:
                frame = points_frame(engine, part, keys, source.metric)
            frame.insert(0, "study", source.key)
            frames.append(
                frame.assign(state=frame["number"].map(part.set_index("number")["state"]))
            )
        return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
