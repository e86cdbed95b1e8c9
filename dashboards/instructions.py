"""Commands to running trials as the Jobs page sends them, read and refused as `jigsaw control` does."""

from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Any, get_args

import click

from dashboards.forms import choice, field, form
from dashboards.page import Html, tag
from dashboards.sources import Sources
from study.control import control, give
from study.errors import UsageError
from study.search.incremental import engine_of
from study.search.studies import load_study
from study.steering import Verb

__all__ = ["instruct", "instruction_form"]

_READ = ("trial", "verb", "values", "at_iteration", "at_epoch")


def instruct(sources: Sources, given: Any) -> str:
    """Queue the command that somebody filled in, and say so.

    Args:
        sources: the studies that are shown.
        given: texts: `trial` (DATABASE/STUDY:NUMBER), `verb`, `values` (NAME=VALUE with spaces between),
            `at_iteration`, `at_epoch`; those that are empty or absent do not count.

    Raises:
        click.UsageError: as the command line.
        UsageError: likewise.
        Away: the database does not answer.
    """
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise UsageError(f"a command is a JSON object of texts, with {', '.join(_READ)}")
    key, _, number = given.get("trial", "").rpartition(":")
    if not key:
        raise UsageError("no trial is chosen; commands reach running trials")
    asked = _read({**given, "trial": number, "values": tuple(given.get("values", "").split())})
    if asked["verb"] is None:
        raise UsageError(f"no command is chosen; allowed: {', '.join(get_args(Verb))}")
    source = sources.find([key])[0]
    with source.database.reading() as engine:
        study = load_study(
            engine.url.render_as_string(hide_password=False), source.name, checked=True
        )
        try:
            command = give(study, **asked)
        finally:
            engine_of(study).dispose()
    return f"queued as command {command} of trial {number}; its answer comes below"


def instruction_form(trials: Iterable[str], token: str) -> Html:
    """Return the form that commands a running trial; the page's script sends it.

    Args:
        trials: the running trials, each DATABASE/STUDY:NUMBER.
        token: what proves that the form came from this process.
    """
    running = [(trial, trial) for trial in trials]
    verbs = [(verb, verb) for verb in get_args(Verb)]
    controls = [
        choice("trial", "Trial", running or [("", "none runs")], [], id="running", data_live=""),
        choice("verb", "Command", verbs, []),
        field("values", "Values, for set", "", "lr=1e-4"),
        field("at_iteration", "At iteration", "", "at once", inputmode="numeric"),
        field("at_epoch", "At epoch", "", "at once", inputmode="decimal"),
    ]
    said = tag("pre", cleandoc(control.help or "").replace("\b", "").strip(), tabindex="0")
    return tag(
        "div",
        form("/commands", controls, method="post", button="Send", data_token=token),
        tag("details", tag("summary", "What each command does, and the same from a shell"), said),
    )


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read texts by the very parameters of the command line."""
    context = click.Context(control)
    return {
        p.name: p.process_value(context, given.get(p.name) or None)
        for p in control.params
        if p.name in _READ
    }
