"""Options of verbs whose training can go on from a snapshot: when one is made, where, and how often it serves."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from study.snapshots import Keeping

__all__ = ["keeping_options", "schedule_options"]

_UNITS = ("it", "s", "")
# Seconds and iterations between two snapshots; None: not by these.
Schedule = tuple[float | None, int | None]


class _Schedule(click.ParamType[Schedule]):
    """Seconds, iterations, or never."""

    name = "schedule"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Schedule:
        if isinstance(value, tuple):
            return value  # read before
        if value == "never":
            return None, None
        unit = next(unit for unit in _UNITS if value.endswith(unit))
        try:
            number = float(value.removesuffix(unit))
        except ValueError:
            number = -1.0
        whole = unit != "it" or number == int(number)
        if not (0 < number < float("inf") and whole):
            self.fail(
                f"{value!r}; allowed: seconds such as 300, iterations such as 500it, or never"
            )
        return (None, int(number)) if unit == "it" else (number, None)


_every = click.option(
    "--snapshot-every", "every", type=_Schedule(), default="300", show_default=True,
    metavar="SECONDS|Nit|never", help="Keep what is trained so often; 500it means every 500 updates.",
)  # fmt: skip
_keep = click.option(
    "--keep", type=click.IntRange(1), default=2, show_default=True, metavar="N",
    help="Snapshots of a training to keep: the newest may turn out to be damaged.",
)  # fmt: skip
_folder = click.option(
    "--snapshots", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Where they are kept.  [default: snapshots/ beside the study's artifacts]",
)  # fmt: skip
_retries = click.option(
    "--retries", type=click.IntRange(0), default=2, show_default=True, metavar="N",
    help="Continue a trial so often that a fault ended, when it left a snapshot.",
)  # fmt: skip


def schedule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how often training is kept; they come as one argument, `keeping`."""

    @_every
    @_keep
    @functools.wraps(function)
    def with_keeping(*args: Any, every: Schedule, keep: int, **others: Any) -> Any:
        return function(*args, keeping=Keeping(None, *every, keep=keep), **others)

    return with_keeping


def keeping_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how trials are kept and continued; they come as one argument, `keeping`."""

    @_every
    @_folder
    @_keep
    @_retries
    @functools.wraps(function)
    def with_keeping(
        *args: Any,
        every: Schedule,
        snapshots: Path | None,
        keep: int,
        retries: int,
        **others: Any,
    ) -> Any:
        folder = None if snapshots is None else str(snapshots.absolute())
        return function(*args, keeping=Keeping(folder, *every, keep, retries), **others)

    return with_keeping
