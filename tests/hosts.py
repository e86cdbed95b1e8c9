"""Two machines on this one, of the suite's own: namespaces that see neither each other's processes nor this network.

Both have a hostname, an address, a memory for ranks of one machine and an sshd of their own; they share the files.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.processes import end_with_parent
from tests.databases import Unavailable

__all__ = ["Host", "Hosts", "hosts"]

_ADDRESSES = {"jigsaw-node1": "10.77.0.1", "jigsaw-node2": "10.77.0.2"}
_INTERFACE = "jigsaw0"
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ip": "iproute2"}
_PATIENCE_SECONDS = 10.0
# Runs as process 1 of a machine, and so has to bury whoever loses his parent: `wait` does.
_BOOT = """
set -e
hostname {name}
mount --bind {folder}/hosts /etc/hosts
# By these, MPI knows its interfaces and who shares its memory.
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
cat /proc/sys/kernel/random/uuid > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
ip link set lo up
echo $$ > {folder}/{name}.up
while :; do sleep 0.2; done
"""
_SSHD = """
ListenAddress {address}:22
HostKey {folder}/{name}.key
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/{name}.pid
PermitRootLogin yes
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
"""
_SSH = """
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking ask
LogLevel ERROR
"""


@dataclass(frozen=True)
class Host:
    """A machine of its own.

    Attributes:
        name: its hostname.
        address: of its only interface.
        folder: of both machines' keys and configuration; `known` names those that need no question.
        boot: the process that keeps it up, as this machine numbers it.
    """

    name: str
    address: str
    folder: Path
    boot: int

    def command(self, *words: str, cwd: Path | None = None) -> list[str]:
        """Return what runs a command there, of which the process here is only the parent."""
        where = ["nsenter", f"--target={self.boot}", "--mount", "--uts", "--net", "--pid"]
        return [*where, f"--wd={cwd or Path.cwd()}", *words]

    def processes(self) -> dict[int, str]:
        """Return the command lines of what runs there, but for what keeps it up, by this machine's numbers."""
        there, found = Path(f"/proc/{self.boot}/ns/pid").readlink(), {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (path / "ns/pid").readlink() == there:
                    found[int(path.name)] = (
                        (path / "cmdline").read_text().replace("\0", " ").strip()
                    )
        own = ("sh -c \nset -e\nhostname", "sleep 0.2", f"sshd: {_program('sshd')}")
        return {pid: line for pid, line in found.items() if line and not line.startswith(own)}

    def listen(self) -> None:
        """Start its sshd."""
        _run(*self.command(_program("sshd"), "-f", f"{self.folder}/{self.name}.sshd"))
        _wait_for(self._pid(), f"sshd of {self.name}")

    def deafen(self, number: int) -> None:
        """End its sshd by a signal, or stop it: who asks then is refused, or waits."""
        _run(*self.command("kill", f"-{number}", self._pid().read_text().strip()))
        if number != signal.SIGSTOP:
            self._pid().unlink()

    def plug(self, state: str) -> None:
        """Connect its cable, "up", or pull it out, "down"."""
        _run(*self.command(_program("ip"), "link", "set", _INTERFACE, state))

    def _pid(self) -> Path:
        return self.folder / f"{self.name}.pid"


@dataclass(frozen=True)
class Hosts:
    """Both machines.

    Attributes:
        first: where a test starts a launch.
        second: another.
        environment: what lets MPICH's launcher on one reach the other.
    """

    first: Host
    second: Host
    environment: Mapping[str, str]


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Start two machines, and end them with all that runs there.

    Raises:
        Unavailable: a program is missing, or this machine allows no namespaces.
    """
    for name, package in _PROGRAMS.items():
        if shutil.which(name, path=_PATH) is None:
            raise Unavailable(f"{name} is not installed: apt-get install {package}")
    folder = Path(tempfile.mkdtemp(prefix="jigsaw-hosts-"))
    boots: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder)
        boots.extend(_boot(name, folder) for name in _ADDRESSES)
        first, second = (
            _up(boot, *facts, folder) for boot, facts in zip(boots, _ADDRESSES.items(), strict=True)
        )
        _connect(first, second)
        for host in (first, second):
            host.listen()
        yield Hosts(first, second, _ssh(folder))
    finally:
        for boot in boots:
            boot.kill()  # and with it process 1, and with that all the others
            boot.wait(_PATIENCE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    known = []
    for name in ("user", *(f"{host}.key" for host in _ADDRESSES)):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name))
    for name, address in _ADDRESSES.items():
        (folder / f"{name}.sshd").write_text(
            _SSHD.format(folder=folder, name=name, address=address)
        )
        known.append(f"{name} {(folder / f'{name}.key.pub').read_text()}")
    (folder / "known").write_text("".join(known))
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in _ADDRESSES.items())
    )
    (folder / "config").write_text(_SSH.format(folder=folder))


def _ssh(folder: Path) -> dict[str, str]:
    """Return what makes every `ssh` use our keys, and nobody's own."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\nexec {_program("ssh")} -F {folder}/config "$@"\n')
    program.chmod(0o755)
    return {"PATH": os.pathsep.join([str(program.parent), _PATH])}


def _boot(name: str, folder: Path) -> "subprocess.Popen[bytes]":
    script = _BOOT.format(name=name, folder=folder)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", script],
            env={**os.environ, "PATH": _PATH}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=end_with_parent,  # noqa: PLW1509  a suite that is killed leaves nothing
        )  # fmt: skip


def _up(boot: "subprocess.Popen[bytes]", name: str, address: str, folder: Path) -> Host:
    try:
        _wait_for(folder / f"{name}.up", name)
    except Unavailable as reason:
        raise Unavailable(f"{reason}: {(folder / f'{name}.log').read_text().strip()}") from None
    (child,) = Path(f"/proc/{boot.pid}/task/{boot.pid}/children").read_text().split()
    return Host(name, address, folder, int(child))


def _connect(first: Host, second: Host) -> None:
    ip, one, other = _program("ip"), str(first.boot), str(second.boot)
    ends = [_INTERFACE, "netns", one], [_INTERFACE, "netns", other]
    _run(ip, "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
    for host in (first, second):
        _run(*host.command(ip, "address", "add", f"{host.address}/24", "dev", _INTERFACE))
        host.plug("up")
    for host in (first, second):  # MPI leaves out an interface that has no carrier yet
        _run(
            *host.command(
                "sh",
                "-c",
                f"until grep -q up /sys/class/net/{_INTERFACE}/operstate; do sleep 0.02; done",
            )
        )


def _program(name: str) -> str:
    return str(shutil.which(name, path=_PATH))


def _wait_for(path: Path, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not start within {_PATIENCE_SECONDS:g} s")
        time.sleep(0.02)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout
