"""The verbs `jigsaw report` and `jigsaw dashboard`."""

from pathlib import Path
from typing import Literal

import click

from study.options import storage_option, study_argument

__all__ = ["dashboard", "report"]


@click.command()
@study_argument
@storage_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="The file; one that is there is replaced.  [default: report.html or report.md]",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["html", "md"]), default="html", show_default=True,
    help="html: charts, pictures and tables; md: tables for a paper's appendix.",
)  # fmt: skip
def report(study: str, storage: str, output: Path | None, form: Literal["html", "md"]) -> None:
    """Write a report of STUDY: one file with every chart, which needs no network.

    Prints the file's path.
    """
    from dashboards.report import write_report
    from study.search.studies import load_study

    path = output or Path(f"report.{form}")
    write_report(load_study(storage, study), path, form=form)
    click.echo(path)


@click.command()
@click.argument("databases", metavar="[STORAGE]...", nargs=-1)
@storage_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 takes any free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="An address of this machine; any but loopback asks visitors for a token, which is printed.",
)
@click.option(
    "--artifacts", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of what trials left.  [default: the folders the studies remember]",
)  # fmt: skip
def dashboard(databases: tuple[str, ...], storage: str, port: int, host: str, artifacts: Path | None) -> None:  # fmt: skip
    """Serve the dashboards of STORAGE until Ctrl-C: compare, curves, gallery, jobs, and optuna-dashboard.

    Studies of several databases compare too; optuna-dashboard shows the first database.
    """
    from dashboards.server import make_server

    server = make_server(databases or (storage,), artifacts, host, port)
    click.echo(f"{server.url} (Ctrl-C ends it)", err=True)
    try:
        server.serve()
    finally:
        click.echo("dashboard ended", err=True)
