"""Benchmarks that use Jigsaw as a user does: through its command line, in processes of their own."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.errors import JigsawError

__all__ = ["assigned", "jigsaw", "storage"]


def storage(folder: Path) -> str:
    """Return the address of the studies in `folder`."""
    return f"sqlite:///{folder / 'study.db'}"


def jigsaw(folder: Path, *arguments: str) -> None:
    """Run `jigsaw ARGUMENTS` on the studies in `folder`; both are made where they are missing.

    Raises:
        JigsawError: it failed, or was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(f"$ jigsaw {shlex.join(arguments)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "OPTUNA_STORAGE": storage(folder)}
    words = [sys.executable, "-m", "study", *arguments]
    if subprocess.run(words, env=environment, check=False).returncode:
        raise JigsawError(
            f"stopped: jigsaw {shlex.join(arguments)} failed; go on with the same command"
        )


def assigned(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as arguments of `jigsaw create`: --set=NAME=VALUE, lists with commas."""
    return [
        f"--set={name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in settings.items()
    ]
