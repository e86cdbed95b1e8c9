"""One rank of a ChainerMNStudy whose rank 1 fails in its first trial: URL FAULT TRIALS (see `benchmarks.retired`)."""

import os
import signal
import sys
from typing import Any

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainermn
import optuna
from optuna_integration.chainermn import ChainerMNStudy


def main(url: str, fault: str, trials: str) -> None:
    communicator = chainermn.create_communicator("naive")
    if communicator.rank == 0:
        optuna.create_study(storage=url, study_name="s")
    communicator.mpi_comm.Barrier()
    study = ChainerMNStudy(optuna.load_study(storage=url, study_name="s"), communicator)
    seen = 0

    def objective(trial: Any, communicator: Any) -> float:
        nonlocal seen
        seen += 1
        value = float(trial.suggest_float("x", 0, 1))
        if seen == 1 and communicator.rank == 1:
            _fail(fault)
        return float(communicator.mpi_comm.allreduce(value))

    study.optimize(objective, n_trials=int(trials), catch=(RuntimeError,))


def _fail(fault: str) -> None:
    if fault == "raise":
        raise RuntimeError("as asked")
    if fault != "none":
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault])


if __name__ == "__main__":
    main(*sys.argv[1:])
