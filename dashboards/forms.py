"""The controls of the pages: plain forms whose answer is the next URL."""

from collections.abc import Iterable, Sequence

import pandas as pd

from dashboards.page import Html, tag
from dashboards.sources import Source
from dashboards.view import View

__all__ = ["choice", "field", "form", "heading", "kept", "tick", "trial_options"]


def form(
    action: str,
    controls: Iterable[Html],
    kept: Iterable[tuple[str, str]] = (),
    *,
    method: str = "get",
    button: str = "Show",
    **more: str,
) -> Html:
    """Return a form that asks for a page, or posts what it holds.

    Args:
        action: the page's path.
        controls: what `choice`, `field` and `tick` return.
        kept: arguments that stay as they are, such as the studies.
        method: `get`, or `post` where it changes something.
        button: what its button says.
        more: further attributes.
    """
    hidden = [tag("input", type="hidden", name_=name, value=value) for name, value in kept]
    send = tag("button", button, type="submit")
    return tag(
        "form", *hidden, *controls, send, action=action, method=method, class_="view", **more
    )


def heading(title: str, sources: Sequence[Source]) -> Html:
    """Return a page's heading, which names its studies."""
    return tag("h1", f"{title}: {', '.join(source.name for source in sources)}")


def kept(view: View) -> list[tuple[str, str]]:
    """Return what every form keeps: the studies."""
    return [("study", key) for key in view.study]


def choice(
    name: str,
    title: str,
    options: Sequence[tuple[str, str]],
    chosen: Sequence[str],
    *,
    several: bool = False,
    **more: str,
) -> Html:
    """Return a labelled list to choose from; options are (value, text)."""
    known = {value for value, _ in options}
    everything = [*options, *((value, value) for value in chosen if value and value not in known)]
    parts = [
        tag("option", text, value=value, **({"selected": ""} if value in chosen else {}))
        for value, text in everything
    ]
    more |= {"multiple": ""} if several else {}
    return tag("label", title, tag("select", *parts, name_=name, **more))


def field(name: str, title: str, value: str, hint: str = "", **more: str) -> Html:
    """Return a labelled field."""
    return tag(
        "label", title, tag("input", name_=name, value=value, placeholder=hint, size="14", **more)
    )


def tick(name: str, title: str, *, ticked: bool) -> Html:
    """Return a labelled box to tick."""
    more = {"checked": ""} if ticked else {}
    return tag(
        "label", tag("input", type="checkbox", name_=name, value="1", **more), title, class_="tick"
    )


def trial_options(ranked: pd.DataFrame, most: int = 200) -> list[tuple[str, str]]:
    """Return the best trials to choose from.

    Args:
        ranked: rows `study, number, value`, best first.
        most: how many at most.
    """
    first = ranked.head(most)
    cells = zip(first["study"], first["number"], first["value"], strict=True)
    return [
        (f"{study}:{number}", f"{study}:{number} ({value:.4g})") for study, number, value in cells
    ]
