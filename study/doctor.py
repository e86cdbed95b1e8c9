"""`jigsaw doctor`: what does not fit together in a database."""

import click

__all__ = ["doctor"]


@click.command()
@click.argument("storage", envvar="OPTUNA_STORAGE", default="sqlite:///jigsaw.db")
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
def doctor(storage: str, repair: bool) -> int:
    """Look for what does not fit together in STORAGE, a database URL: one line each.

    Trials that nobody runs, snapshots that nobody goes on from, curves and commands of trials that are gone,
    files without trials and trials without files, studies without conditions.

    Exit code 0: all is well, or was repaired; 1: it is not.
    """
    from study.search.doctor import examine
    from study.search.storage import printable

    left = 0
    findings = list(examine(storage))
    for finding in findings:
        if finding.repair is None:
            click.echo(f"{finding.what}; you: {finding.remedy}")
        elif repair:
            finding.repair()
            click.echo(f"{finding.what}; repaired: {finding.remedy}")
        else:
            click.echo(f"{finding.what}; --repair {finding.remedy}")
        left += finding.repair is None or not repair
    if not findings:
        click.echo(f"nothing is wrong in {printable(storage)}", err=True)
    return 1 if left else 0
