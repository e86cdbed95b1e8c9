"""An objective that looks at the command lines of every process, as any user of the machine can."""

from typing import Any

from study.objective import Objective, Report, Result
from study.space import Suggester
from study.world import World
from tests.mpi_tests.jobs import processes_naming


class Looking(Objective):
    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> Result:
        found = processes_naming("pa55" + "word")
        report(1, 0.5)
        return Result(0.5, {"found": found, "workers": len(processes_naming("study.worker"))})
