"""Let rank 0 wait for rank 1; it prints the processor seconds that this took.

mpiexec -n 2 python waiting_job.py
"""

import time

from mpi4py import MPI

from study.world import World

LATE_SECONDS = 1.5


def main() -> None:
    world = World(MPI.COMM_WORLD)
    world.check()
    if world.rank == 1:
        time.sleep(LATE_SECONDS)
    before = time.process_time()
    world.check()
    if world.rank == 0:
        print(time.process_time() - before, flush=True)


if __name__ == "__main__":
    main()
