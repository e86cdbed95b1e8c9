"""Our pages as a web application: every address reads, and one takes commands to running trials."""

import importlib.util
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import click
import pandas as pd
import plotly
from flask import Flask, Response, request, send_file, send_from_directory
from werkzeug.exceptions import Forbidden, NotFound

from dashboards.compare import combine
from dashboards.comparison import compare_page
from dashboards.figures import FIGURES, TABLES, python_source
from dashboards.gallery import gallery_page, read_picture
from dashboards.increments import increments
from dashboards.instructions import instruct
from dashboards.jobs import jobs_page
from dashboards.page import Content, site_page, tag
from dashboards.pages import changes_page, curves_page, navigation, studies_page
from dashboards.pdf import chart_pdf
from dashboards.selection import Selection
from dashboards.sources import Away, Sources
from dashboards.view import View, parse_view
from study.errors import UsageError

__all__ = ["make_site"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_TOP = 25
_Maker = TypeVar("_Maker")


def _sample(s: Selection) -> pd.DataFrame:
    return combine({source.key: source.sample(_TOP) for source in s.sources})


def _curve_keys(s: Selection) -> list[str]:
    """Return the keys of the curves of a few trials: all report the same ones."""
    frame = s.points(s.chosen(8), None)
    return sorted({s.metric, *frame["key"].map(str)})


_PAGES: Mapping[str, tuple[str, Callable[[Selection], Sequence[Content]]]] = {
    "/compare": ("Compare", lambda s: compare_page(s, _sample(s))),
    "/curves": ("Curves", lambda s: curves_page(s, _curve_keys(s))),
}


def make_site(sources: Sources, folder: str | None = None) -> Flask:
    """Return our pages.

    Args:
        sources: what is shown; the first database is the one optuna-dashboard shows too.
        folder: where artifacts lie; None: where each study remembers.
    """
    site = Flask("dashboards", static_folder=None)
    answers = _Answers(sources, folder)
    for path, (title, content) in _PAGES.items():
        site.add_url_rule(path, path, partial(answers.page, title, content))
    others: Mapping[str, Callable[..., Response | str]] = {
        "/": answers.studies,
        "/gallery": partial(answers.page, "Gallery", partial(gallery_page, folder=folder)),
        "/changes": partial(answers.page, "What changed", partial(changes_page, folder=folder)),
        "/jobs": partial(answers.page, "Jobs", partial(jobs_page, token=answers.token)),
        "/figure/<name>.json": answers.figure,
        "/figure/<name>.py": answers.program,
        "/figure/<name>.pdf": answers.pdf,
        "/table/<name>.<form>": answers.table,
        "/increments": answers.increments,
        "/picture/<int:number>/<artifact>": answers.picture,
        "/from-optuna": answers.from_optuna,
        "/assets/<path:name>": _asset,
    }
    for path, answer in others.items():
        site.add_url_rule(path, path, answer)
    site.add_url_rule("/commands", "/commands", answers.commands, methods=["POST"])
    site.after_request(_sealed)
    site.register_error_handler(UsageError, lambda error: _refusal(str(error), 400))
    site.register_error_handler(click.UsageError, lambda e: _refusal(e.format_message(), 400))
    site.register_error_handler(Forbidden, lambda error: _refusal(str(error.description), 403))
    site.register_error_handler(Away, lambda error: _refusal(str(error), 503))
    site.register_error_handler(NotFound, lambda error: _refusal(str(error.description), 404))
    return site


@dataclass(frozen=True)
class _Answers:
    """What each address answers with."""

    sources: Sources
    folder: str | None
    # In every form that changes something: no other site's page can read it, and so none can send it.
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def select(self) -> Selection:
        view = parse_view(request.args.items(multi=True))
        found = self.sources.find(view.study)
        if not found:
            raise UsageError("there is no study yet: jigsaw create NAME")
        return Selection(view.model_copy(update={"study": tuple(s.key for s in found)}), found)

    def page(self, title: str, content: Callable[[Selection], Sequence[Content]]) -> str:
        s = self.select()
        return site_page(title, navigation(request.path, s.view, _optuna(s)), *content(s))

    def studies(self) -> str:
        shown = [database.shown for database in self.sources.databases]
        content = studies_page(self.sources.studies(), shown)
        return site_page("Studies", navigation("/", View(), "/dashboard"), *content)

    def figure(self, name: str) -> Response:
        figure = _known(FIGURES, name)(self.select())
        return Response(figure.to_json(), mimetype="application/json")

    def program(self, name: str) -> Response:
        text = python_source(_known(FIGURES, name)(self.select()), name)
        return Response(text, mimetype="text/x-python")

    def pdf(self, name: str) -> Response:
        content = chart_pdf(_known(FIGURES, name)(self.select()))
        return Response(content, mimetype="application/pdf")

    def table(self, name: str, form: str) -> Response:
        if name == "studies":
            return _download(self.sources.studies(), name, form)
        return _download(_known(TABLES, name)(self.select()), name, form)

    def increments(self) -> Response:
        found = increments(self.select(), request.args.get("cursor", ""))
        return Response(json.dumps(found), mimetype="application/json")

    def commands(self) -> Response:
        shown = request.headers.get("X-Jigsaw-Token", "")
        if not secrets.compare_digest(shown.encode(), self.token.encode()):
            raise Forbidden(
                "commands come from the Jobs page of this very process: read it again, or use jigsaw control"
            )
        said = instruct(self.sources, request.get_json(silent=True))
        return Response(json.dumps({"said": said}), mimetype="application/json")

    def picture(self, number: int, artifact: str) -> Response:
        content = read_picture(self.select().sources[0], number, artifact, self.folder)
        if content is None:
            raise NotFound("this trial left no such picture")
        return Response(content, mimetype="image/png")

    def from_optuna(self) -> Response:
        where = _ours(self.sources, request.headers.get("Referer", ""))
        return Response(status=302, headers={"Location": where})


def _asset(name: str) -> Response:
    if name == "plotly.min.js":
        library = Path(plotly.__file__).parent / "package_data" / name
        return send_file(library, max_age=3600, conditional=True)
    return send_from_directory(Path(__file__).with_name("assets"), name, max_age=0)


def _sealed(response: Response) -> Response:
    """Forbid the browser every request but to this server, and every script but its files."""
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _known(registry: Mapping[str, _Maker], name: str) -> _Maker:
    if name not in registry:
        raise NotFound(f"there is no {name!r}; there are: {', '.join(registry)}")
    return registry[name]


def _refusal(sentence: str, status: int) -> Response:
    """Answer in one sentence: to scripts as JSON, to people as a page."""
    if (
        request.path.startswith(("/figure/", "/increments", "/commands"))
        and request.path[-4:] != ".pdf"
    ):
        return Response(json.dumps({"error": sentence}), status, mimetype="application/json")
    content = [tag("h1", "This cannot be shown"), tag("p", sentence)]
    return Response(site_page("Refused", navigation("", View(), "/dashboard"), *content), status)


def _download(frame: pd.DataFrame, name: str, form: str) -> Response:
    frame = frame.drop(columns=["trial_id", "uid"], errors="ignore")
    kind = {
        "csv": "text/csv",
        "tex": "text/x-tex",
        "parquet": "application/vnd.apache.parquet",
    }.get(form)
    if kind is None:
        raise NotFound(f"tables come as csv, parquet or tex, not {form!r}")
    return Response(
        _written(frame, form),
        mimetype=kind,
        headers={"Content-Disposition": f'attachment; filename="{name}.{form}"'},
    )


def _written(frame: pd.DataFrame, form: str) -> bytes:
    if form == "csv":
        return frame.to_csv(index=False).encode()
    if form == "tex":
        style = frame.style.format(precision=4, na_rep="", escape="latex")
        return style.format_index(escape="latex", axis=1).hide().to_latex(hrules=True).encode()
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or take CSV"
        )
    stream = BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()


def _optuna(s: Selection) -> str | None:
    """Return where optuna-dashboard shows the first study of its database, and the trials of the view."""
    first = next((source for source in s.sources if source.key.startswith("0/")), None)
    if first is None:
        return None
    mine = [t.rpartition(":")[2] for t in s.view.trial if t.startswith(f"{first.key}:")]
    trials = f"/trials?numbers={','.join(mine)}" if mine else ""
    return f"/dashboard/studies/{first.id}{trials}"


def _ours(sources: Sources, referer: str) -> str:
    """Return the page that shows what optuna-dashboard showed."""
    where = urlsplit(referer)
    parts = where.path.strip("/").split("/")
    if len(parts) < 3 or parts[:2] != ["dashboard", "studies"] or not parts[2].isdecimal():
        return "/"
    found = [s for s in sources.find([]) if s.key.startswith("0/") and s.id == int(parts[2])]
    if not found:
        return "/"
    numbers = ",".join(parse_qs(where.query).get("numbers", [])).split(",")
    trials = tuple(f"{found[0].key}:{n}" for n in numbers if n.isdecimal())
    page = "/curves" if trials else "/compare"
    return f"{page}?{View(study=(found[0].key,), trial=trials).query()}"
