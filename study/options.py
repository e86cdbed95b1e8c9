"""Options and ways of writing values that several verbs of the command line share."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from study.conditions import DEFAULT_OBJECTIVE, parse_scalar
from study.errors import UsageError
from study.objective import Objective, load_objective

__all__ = [
    "FiniteRange",
    "device_option",
    "form_option",
    "hang_option",
    "objective_of",
    "read_pair",
    "read_point",
    "read_settings",
    "spec_option",
    "storage_option",
    "study_argument",
    "study_options",
]


class FiniteRange(click.FloatRange):
    """A number within a range; click's own lets `nan` pass, which is within none, and `inf`."""

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the number, or refuse it."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, context)
        return number


def _warn(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Say where a password does not belong; once, of several ranks."""
    if context.get_parameter_source(str(parameter.name)) is not ParameterSource.COMMANDLINE:
        return value
    # The command line itself starts without what knows databases.
    from study.mpi import mpi_world
    from study.urls import holds_password

    if holds_password(value) and mpi_world().rank == 0:
        click.echo(
            "warning: every user of this machine can read the password in --storage; put the URL in a file that "
            "only you can read, and say --storage file:PATH, or set OPTUNA_STORAGE",
            err=True,
        )
    return value


storage_option = click.option(
    "--storage", envvar="OPTUNA_STORAGE", default="sqlite:///jigsaw.db", show_default=True,
    metavar="URL", callback=_warn, help="Database URL, or file:PATH of a file that holds it: no command line should hold a "
    "password. The environment variable OPTUNA_STORAGE is used when left out.",
)  # fmt: skip
study_argument = click.argument("study")
hang_option = click.option(
    "--hang-timeout", type=FiniteRange(0, min_open=True), default=600.0, show_default=True,
    metavar="SECONDS", help="End the job when a rank waits so long for the others.",
)  # fmt: skip


def _remember_device(context: click.Context, option: click.Parameter, name: str) -> None:
    # For models.device, which only those commands import that compute something.
    os.environ["JIGSAW_DEVICE"] = name


device_option = click.option(
    "--device", envvar="JIGSAW_DEVICE", type=click.Choice(["cpu", "cuda"]), default="cpu",
    show_default=True, expose_value=False, callback=_remember_device,
    help="Compute there; each rank of a host takes a GPU of its own. JIGSAW_DEVICE is used when left out.",
)  # fmt: skip
form_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table",
    show_default=True, help="How results are printed.",
)  # fmt: skip


def spec_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names a JSON file of parameters; `text` is its help."""
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option("--spec", type=kind, help=text)


_CONDITIONS = (
    click.option(
        "--objective",
        metavar="NAME",
        help=f"package.module:Name or path/to/file.py:Name.  [default: {DEFAULT_OBJECTIVE}]",
    ),
    click.option(
        "--sampler",
        metavar="NAME:K=V,..",
        help="tpe, random, cmaes, qmc or gp, with arguments.  [default: tpe]",
    ),
    click.option(
        "--pruner",
        metavar="NAME:K=V,..",
        help="median, percentile, halving, hyperband, patient, threshold, none.  [default: median]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**31 - 1),
        help="Seed of what is sampled, and of training unless --set seed=.. differs.  [default: 0]",
    ),
)


def study_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that are conditions of a study."""
    for option in reversed(_CONDITIONS):
        function = option(function)
    return function


def read_pair(text: str) -> tuple[str, Any]:
    """Split NAME=VALUE; the value is a number, true, false, none or text.

    Raises:
        UsageError: there is no `=`, or no name before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} is not NAME=VALUE")
    return name, parse_scalar(value)


def read_settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE; a value with commas is a list, one in brackets is JSON."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = read_pair(text)
        if isinstance(value, str) and value[:1] in ("[", "{"):
            value = _json(name, value)
        elif isinstance(value, str) and "," in value:
            value = [parse_scalar(part) for part in value.split(",") if part]
        found[name] = value
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"--set {name}: {text!r} is no JSON: {error}") from None


def read_point(path: Path | None) -> dict[str, Any]:
    """Read a JSON file of parameters; nothing when there is no path.

    Raises:
        UsageError: the file holds anything but a JSON object.
    """
    if path is None:
        return {}
    try:
        point = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"spec file {str(path)!r} is no JSON: {error}") from None
    if not isinstance(point, dict):
        raise UsageError(
            f"spec file {str(path)!r} holds {type(point).__name__}; expected an object of parameters"
        )
    return point


def objective_of(loaded: Any) -> Objective:
    """Build the objective that a loaded study remembers.

    Raises:
        UsageError: it remembers none, being a study of plain Optuna.
    """
    from study.search.studies import conditions_of

    conditions = conditions_of(loaded)
    if conditions is None:
        name = loaded.study_name
        raise UsageError(
            f"study {name!r} names no objective yet; run `jigsaw worker {name} --objective NAME` once"
        )
    return load_objective(conditions.objective, conditions.settings)
