"""Every exception Jigsaw raises on purpose.

JigsawError
|- UsageError            the user gave something that cannot be: one sentence, exit code 2
|  `- DataError          a file or data set is missing, truncated, wrongly shaped or mislabelled
|- TrialPruned           the pruner's verdict, raised on every rank at the same report
|- TrialStopped          a command ended the trial, which completes with what it reported last
|- TrialFailed           at least one rank raised; every rank leaves the trial with this
`- TrialInterrupted      Ctrl-C or SIGTERM reached a rank; every rank leaves with this
"""

__all__ = [
    "DataError",
    "JigsawError",
    "TrialFailed",
    "TrialInterrupted",
    "TrialPruned",
    "TrialStopped",
    "UsageError",
]


class JigsawError(Exception):
    """Base of every exception Jigsaw raises on purpose."""


class UsageError(JigsawError):
    """Bad input: the text names the thing, shows its value and says what is allowed."""


class DataError(UsageError):
    """A data file is missing, truncated, wrongly shaped or mislabelled."""


class TrialPruned(JigsawError):
    """The trial is not worth finishing: a verdict, not a fault."""


class TrialStopped(JigsawError):
    """Somebody asked for no further training; the trial completes with what it reported last."""


class TrialFailed(JigsawError):
    """At least one rank raised.

    Attributes:
        failures: the traceback of each rank that raised.
        refusals: the sentence of each of these ranks that raised a UsageError.
    """

    def __init__(self, failures: dict[int, str], refusals: dict[int, str] | None = None) -> None:
        self.failures = failures
        self.refusals = refusals or {}
        last = {rank: (text.strip().splitlines() or ["?"])[-1] for rank, text in failures.items()}
        super().__init__("; ".join(f"rank {rank}: {line}" for rank, line in last.items()))

    @property
    def refusal(self) -> UsageError | None:
        """What to say instead when nothing but bad input stopped the ranks."""
        if not self.refusals or self.refusals.keys() != self.failures.keys():
            return None
        return UsageError(self.refusals[min(self.refusals)])


class TrialInterrupted(JigsawError):
    """A signal asked to stop; nothing is wrong with the trial itself."""
