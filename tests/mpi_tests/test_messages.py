"""How many messages a training step takes: what ranks wait for, whatever their network."""

import json
from pathlib import Path

from tests.mpi_tests.jobs import run_job
from tests.mpi_tests.waiting_job import LATE_SECONDS


def test_a_training_step_takes_27_messages() -> None:
    job = Path(__file__).with_name("messages_job.py")
    said = [line for line in run_job(2, job, limit=120).splitlines() if line.startswith("{")]
    steps = [json.loads(line) for line in said]
    assert steps == [steps[0]] * 3
    # Batch statistics of either pass ride along with status words; the gradient is one packed message.
    assert steps[0] == {"Iallreduce": 26, "Allreduce": 1}


def test_a_rank_that_waits_for_another_leaves_the_processor_alone() -> None:
    job = Path(__file__).with_name("waiting_job.py")
    assert float(run_job(2, job, limit=60)) < LATE_SECONDS / 5
