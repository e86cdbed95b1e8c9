"""A real Slurm of one node, of the suite's own: plain processes on loopback, free ports, gone afterwards."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.processes import end_with_parent
from tests.databases import Unavailable

__all__ = ["Slurm", "slurm"]

# More processors and memory than there may be: jobs of the tests hardly compute.
CPUS = 8
MEGABYTES = 8000
_CONFIGURATION = """
ClusterName=jigsaw
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
KillWait={kill_wait}
OverTimeLimit=0
MinJobAge=300
FirstJobId={first}
DefMemPerCPU=500
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes}
PartitionName=usual Default=YES Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={kill_wait}
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Slurm:
    """A running controller and its one node.

    Attributes:
        environment: what lets Slurm's programs find it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True, cwd: Path | None = None, **extra: str) -> str:
        """Run one of Slurm's programs; return what it printed."""
        done = subprocess.run(
            command, env={**os.environ, **extra, **self.environment}, capture_output=True, text=True,
            timeout=60, check=False, cwd=cwd,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the names of the jobs and steps that wait or run."""
        names = self.run("squeue", "--noheader", "--format=%j")
        steps = self.run("squeue", "--noheader", "--steps", "--format=%j")
        return [*names.split(), *steps.split()]


@contextmanager
def slurm(kill_wait: int = 5) -> Iterator[Slurm]:
    """Start munged, slurmctld and slurmd, and stop them with all their jobs.

    Args:
        kill_wait: seconds between asking a job to end and killing it.

    Raises:
        Unavailable: a program is missing, or does not start.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        raise Unavailable(f"{missing[0]} is not installed: apt-get install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="jigsaw-slurm-"))
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        server = _configure(folder, kill_wait)
        daemons.append(_munged(folder / "munge"))
        for program in (["slurmctld", "-D"], ["slurmd", "-D", "-N", _host()]):
            daemons.append(_daemon(program, server))
        _wait_until_idle(server, daemons)
        yield server
    finally:
        _stop(folder, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _configure(folder: Path, kill_wait: int) -> Slurm:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    facts = {
        "folder": folder, "host": _host(), "user": getpass.getuser(), "ports": _free_ports(2),
        # MPICH names shared memory after the job's number, and finds what a killed job of that number left.
        "first": 1 + int.from_bytes(os.urandom(3)), "cpus": CPUS, "megabytes": MEGABYTES, "kill_wait": kill_wait,
    }  # fmt: skip
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(**facts))
    return Slurm(folder)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _munged(folder: Path) -> "subprocess.Popen[bytes]":
    folder.chmod(0o755)
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{name}={folder / name.removesuffix('-file')}"
             for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
    # `--force`: the temporary folder's parents may be anybody's.
    return _start(["munged", "--foreground", "--force", *files], {}, folder / "out")


def _daemon(command: list[str], server: Slurm) -> "subprocess.Popen[bytes]":
    return _start(command, server.environment, server.folder / f"{command[0]}.out")


def _start(command: list[str], extra: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    # No daemon is started from inside a job of another Slurm.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(shutil.which(command[0], path=_PATH)), *command[1:]],
            env={**kept, **extra}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, preexec_fn=end_with_parent,  # noqa: PLW1509  a suite that is killed leaves nothing
        )  # fmt: skip


def _wait_until_idle(server: Slurm, daemons: "list[subprocess.Popen[bytes]]") -> None:
    for _ in range(200):
        if any(daemon.poll() is not None for daemon in daemons):
            break
        if server.run("sinfo", "--noheader", "--format=%T", check=False).split()[:1] == ["idle"]:
            return
        time.sleep(0.1)
    said = "".join(path.read_text()[-500:] for path in sorted(server.folder.glob("*.log")))
    raise Unavailable(f"Slurm did not start within 20 s: {said}")


def _stop(folder: Path, daemons: "list[subprocess.Popen[bytes]]") -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in reversed(daemons):
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)
    # What steps have left: slurmstepd outlives slurmd on purpose.
    for pid in _naming(str(folder)):
        os.kill(pid, signal.SIGKILL)


def _naming(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]
