"""The `jigsaw` command, composed: verbs of studies, of attacks, of dashboards."""

import sys

from study.commands import jigsaw, run

__all__ = ["main"]


def main() -> None:
    """Run `jigsaw`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
