"""The verbs `jigsaw report` and `jigsaw dashboard`."""

from pathlib import Path

import click

from study.options import storage_option, study_argument

__all__ = ["dashboard", "report"]


@click.command()
@study_argument
@storage_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"),
    show_default=True, help="The HTML file; one that is there is replaced.",
)  # fmt: skip
def report(study: str, storage: str, output: Path) -> None:
    """Write a report of STUDY: one HTML file with every chart, which needs no network.

    Prints the file's path.
    """
    from dashboards.report import write_report
    from study.search.studies import load_study

    write_report(load_study(storage, study), output)
    click.echo(output)


@click.command()
@click.argument("database", metavar="[STORAGE]", required=False)
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
    help="A loopback address: the dashboard asks for no password.",
)
@click.option(
    "--artifacts", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of what trials left.  [default: the folders the studies remember]",
)  # fmt: skip
def dashboard(database: str | None, storage: str, port: int, host: str, artifacts: Path | None) -> None:  # fmt: skip
    """Serve optuna-dashboard on STORAGE to this machine, until Ctrl-C."""
    from dashboards.server import artifact_folders, make_server
    from study.search.storage import open_storage

    opened = open_storage(database or storage)
    server = make_server(opened, [artifacts] if artifacts else artifact_folders(opened), host, port)
    name = f"[{host}]" if ":" in host else host
    with server:
        click.echo(f"http://{name}:{server.server_port}/dashboard (Ctrl-C ends it)", err=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("dashboard ended", err=True)
