"""An objective that looks at the command lines of every process, as any user of the machine can."""

from pathlib import Path
from typing import Any

from study.objective import Objective, Report, Result
from study.space import Suggester
from study.world import World


class Looking(Objective):
    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> Result:
        lines = command_lines()
        found = [line for line in lines if "pa55" + "word" in line]
        workers = sum("study" in line for line in lines)
        report(1, 0.5)
        return Result(0.5, {"found": found, "workers": workers})


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found
