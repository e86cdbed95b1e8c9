"""`jigsaw demo`: the main job from end to end, as the sequence of commands a user would type."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd

from study.errors import JigsawError
from study.launchers import find_mpiexec
from study.tables import show

__all__ = ["demo"]

_BASELINES = ("noop", "random", "fgsm", "mi-fgsm")


@dataclass(frozen=True)
class _Size:
    """How much the demo does."""

    trials: int
    seeds: int
    report_images: int
    settings: tuple[str, ...]


_FULL = _Size(20, 3, 500, ())
_QUICK = _Size(
    4,
    1,
    100,
    (
        "images=256",
        "reports=4",
        "classifier_images=3000",
        "tune_images=50",
        "train=resnet8",
        "tune=vgg",
    ),
)


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is left.  [default: runs/demo, or runs/demo-quick]",
)
@click.option(
    "--ranks", type=click.IntRange(1), default=2, show_default=True, help="Ranks of the MPI job."
)
@click.option("--quick", is_flag=True, help="A much smaller search, to see that it works.")
def demo(folder: Path | None, ranks: int, quick: bool) -> None:
    """Tune an attack network on real photographs, end to end: six to ten minutes on two cores.

    Each step is printed as the command you would type. Called again, it continues where it stopped.
    """
    started = time.monotonic()
    size = _QUICK if quick else _FULL
    folder = folder or Path("runs/demo-quick" if quick else "runs/demo")
    run = _Runner(folder, ranks)
    run.jigsaw("create", "demo", "--exist-ok", "--sampler", "tpe:n_startup_trials=8",
               "--pruner", "median:n_startup_trials=4,n_warmup_steps=700",
               *[f"--set={s}" for s in size.settings])  # fmt: skip
    if missing := _missing(run.storage, size):
        run.jigsaw("launch", "demo", "--n-trials", str(missing), "--ranks", str(ranks))
    _measure(run, folder, size)
    run.jigsaw("report", "demo", "--output", str(folder / "report.html"))
    _show_results(run.storage, folder)
    click.echo(f"{time.monotonic() - started:.0f} s", err=True)


def _measure(run: "_Runner", folder: Path, size: _Size) -> None:
    """Train, package and score what is best now; what was done for this trial is not done again."""
    best = _best(run.storage)
    _retrain(run, folder, size, best)
    if _record(folder / "best").get("trial") != best:
        # What was measured is of another network.
        (folder / "errors.csv").unlink(missing_ok=True)
        run.jigsaw("package", "demo", str(folder / "best"))
    if not (folder / "errors.csv").is_file():
        _evaluate(run, folder, size)
        # Again, so that the card carries what was just measured.
        run.jigsaw("package", "demo", str(folder / "best"))


class _Runner:
    """Runs commands one after another, printing each."""

    def __init__(self, folder: Path, ranks: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = f"sqlite:///{folder / 'study.db'}"
        self._ranks = ranks
        # Ranks must not import a stray models.py from the working directory.
        self._environment = {**os.environ, "OPTUNA_STORAGE": self.storage, "PYTHONSAFEPATH": "1"}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            self._environment.setdefault(name, "1")
        # Open MPI counts cores and refuses more ranks; the demo's two ranks also run on one.
        self._environment.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")

    def jigsaw(self, *arguments: str) -> None:
        """Run a verb in one process."""
        self._call([sys.executable, "-m", "study", *arguments], ["jigsaw", *arguments])

    def on_ranks(self, module: str, *arguments: str) -> None:
        """Run a module as an MPI job."""
        if self._ranks == 1:
            self._call(
                [sys.executable, "-m", module, *arguments], ["python", "-m", module, *arguments]
            )
            return
        job = ["mpiexec", "-n", str(self._ranks)]
        real = [find_mpiexec(), *job[1:], sys.executable, "-m", module, *arguments]
        self._call(real, [*job, "python", "-m", module, *arguments])

    def _call(self, command: list[str], shown: list[str]) -> None:
        click.echo(click.style("$ " + shlex.join(shown), bold=True), err=True)
        code = _wait(command, self._environment)
        if code == 130:
            raise click.exceptions.Abort
        if code:
            raise JigsawError(f"stopped: {shlex.join(shown)} ended with exit code {code}")


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in a session of its own, and pass signals on: it must settle its trial first."""
    asked = []
    with subprocess.Popen(  # noqa: S603  our own commands
        command, env=environment, stdout=sys.stderr, start_new_session=True
    ) as process:

        def pass_on(number: int, frame: object) -> None:
            asked.append(number)
            process.send_signal(number)

        previous = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    return 130 if asked else code


def _best(storage: str) -> int:
    from study.search.studies import find_trial, load_study

    return find_trial(load_study(storage, "demo"), "best").number


def _missing(storage: str, size: _Size) -> int:
    from study.search.studies import finished, load_study

    return max(0, size.trials - finished(load_study(storage, "demo")))


def _record(package: Path) -> dict[str, Any]:
    """Return what a package says about how it was made; nothing when there is none."""
    card = package / "package.json"
    record: dict[str, Any] = json.loads(card.read_bytes())["record"] if card.is_file() else {}
    return record


def _retrain(run: _Runner, folder: Path, size: _Size, best: int) -> None:
    """The best of many beats the default by selection alone; fresh seeds tell whether it is better."""
    for name, trial, origin in (
        ("winner", "best", f"trial {best}"),
        ("default", "default", "default"),
    ):
        made = [folder / "retrained" / f"{name}-{k + 1}" for k in range(size.seeds)]
        if any(_record(package).get("from") != origin for package in made):
            run.on_ranks("study", "train", "demo", str(folder / "retrained" / name),
                         "--trial", trial, "--seeds", str(size.seeds))  # fmt: skip


def _evaluate(run: _Runner, folder: Path, size: _Size) -> None:
    again = [
        f"{name}-{k + 1}={folder / 'retrained' / f'{name}-{k + 1}'}"
        for name in ("winner", "default")
        for k in range(size.seeds)
    ]
    run.on_ranks("study", "evaluate", "--study", "demo", "--images", str(size.report_images),
                 "--csv", str(folder / "errors.csv"), *_BASELINES, f"best={folder / 'best'}", *again)  # fmt: skip


def _show_results(storage: str, folder: Path) -> None:
    from study.search.studies import load_study
    from study.search.summary import best_trials, time_by_state

    study = load_study(storage, "demo")
    errors = pd.read_csv(folder / "errors.csv")
    show(
        best_trials(study, 5)
        .T.reset_index()
        .set_axis(["", *range(1, 6)][: 1 + min(5, len(best_trials(study, 5)))], axis=1),
        "table",
        "best trials",
    )
    show(time_by_state(study), "table", "where the time went")
    plain = errors[~errors["attack"].str.match(r"(winner|default)-\d+$")]
    for where, rows in _by_classifier(plain).items():
        show(_grid(rows), "table", f"error rate {where}, by epsilon (of 255)")
    show(
        _seeds(errors),
        "table",
        "the winner and the default spec, each trained again with fresh seeds: mean error (lowest .. highest)",
    )
    for what, path in (
        ("study", "study.db"),
        ("report", "report.html"),
        ("attack package", "best"),
        ("all error rates", "errors.csv"),
    ):
        click.echo(f"{what:>16}: {folder / path}")
    click.echo(
        f"look further: jigsaw dashboard {storage}   go on: jigsaw worker demo --storage {storage} --n-trials 20"
    )


def _by_classifier(errors: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each held-out classifier, and before them those of all, whose mean counts."""
    each = {
        f"on {name}, which no attack has seen": rows for name, rows in errors.groupby("classifier")
    }
    return each if len(each) < 2 else {"in the mean over held-out classifiers": errors, **each}


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    order = list(dict.fromkeys(rows["attack"]))
    return rows.pivot_table("error", "attack", "epsilon").loc[order].reset_index()


def _seeds(errors: pd.DataFrame) -> pd.DataFrame:
    again = errors[errors["attack"].str.match(r"(winner|default)-\d+$")]
    again = again.assign(spec=again["attack"].str.replace(r"-\d+$", "", regex=True))
    by_seed = again.groupby(["spec", "attack", "epsilon"], sort=False)["error"].mean()

    def spread(values: Any) -> str:
        return f"{values.mean():.3f} ({values.min():.3f} .. {values.max():.3f})"

    return by_seed.groupby(["spec", "epsilon"]).agg(spread).unstack().reset_index()
