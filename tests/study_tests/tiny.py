"""Objectives small enough to see through."""

import os
import signal
from collections.abc import Mapping
from typing import Any, ClassVar

from study.errors import UsageError
from study.objective import Objective, Report
from study.space import Domain, Scalar, Suggester
from study.world import World

HERE = "tests.study_tests.tiny"


class Tiny(Objective):
    """A conditional space: `depth` exists only for kind b, `gain` only for kind a."""

    metric: ClassVar[str] = "score"
    kinds: ClassVar[tuple[str, ...]] = ("a", "b")

    def __init__(self, scale: float = 1.0, names: Any = ()) -> None:
        if not 0 < scale <= 10:
            raise UsageError(f"scale is {scale!r}; allowed: above 0, at most 10")
        self.scale = scale
        self.names = names

    @property
    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale, "names": self.names}

    @property
    def default(self) -> Mapping[str, Scalar]:
        return {"kind": "a", "x": 0.5, "gain": 2.0}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        kind = trial.suggest_categorical("kind", self.kinds)
        spec = {"kind": kind, "x": trial.suggest_float("x", 0.0, 1.0)}
        if kind == "b":
            spec["depth"] = trial.suggest_int("depth", 1, 3)
        else:
            spec["gain"] = trial.suggest_float("gain", 1, 8, log=True)
        return spec

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        report(1, value := self.scale * float(spec["x"]))
        return value


class Appended(Tiny):
    kinds = ("a", "b", "c")


class Inserted(Tiny):
    kinds = ("c", "a", "b")


class Worded(Tiny):
    """A choice that reads as no value at all on a command line."""

    kinds = ("a", "none")


class Renamed(Tiny):
    kinds = ("c", "b")


class Plain(Tiny):
    """No default: the sampler begins."""

    @property
    def default(self) -> Mapping[str, Scalar]:
        return {}


class Minimal(Tiny):
    direction = "minimize"


class Refusing(Tiny):
    def suggest(self, trial: Suggester) -> dict[str, Any]:
        trial.suggest_categorical("kind", self.kinds)
        raise RuntimeError("no such spec")


class Seeded(Tiny):
    """Has a seed of its own."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed}


class SignalledAsking(Tiny):
    """A signal comes while a trial is asked for, not while the space is looked at."""

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        if hasattr(trial, "number"):
            os.kill(os.getpid(), signal.SIGINT)
        return super().suggest(trial)


class SignalledReporting(Tiny):
    """A signal comes before the first report; without being told it would never end."""

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        for step in range(1, 100):
            report(step, float(step))
        return 1.0


class Settable(Tiny):
    """Something may be set while it runs."""

    @property
    def settable(self) -> Mapping[str, Domain]:
        return {"speed": Domain("speed", low=0.0, high=1.0)}


class Unfinished(Objective):
    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {}


class Fragile(Tiny):
    """Fails where x is large."""

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        if spec["x"] > 0.8:
            raise ValueError("too large")
        return super().evaluate(spec, world, report)


class Broken(Tiny):
    """Always fails."""

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        raise ValueError("broken")


class Unprepared(Tiny):
    def prepare(self, world: World) -> None:
        raise UsageError("x is 3; allowed: 1, 2")


class Unlucky(Tiny):
    def prepare(self, world: World) -> None:
        raise RuntimeError("planted")


class Ranked(Tiny):
    """Says on how many ranks it runs."""

    @property
    def default(self) -> Mapping[str, Scalar]:
        return {**super().default, "ranks": 1}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {**super().suggest(trial), "ranks": trial.suggest_categorical("ranks", (0, 1, 2))}


NOT_A_CLASS = 3


class SometimesRanked(Tiny):
    """Chooses its ranks for kind b only."""

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        spec = super().suggest(trial)
        return spec | ({"ranks": trial.suggest_int("ranks", 2, 2)} if spec["kind"] == "b" else {})
