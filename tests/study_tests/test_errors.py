import pytest

from study import errors
from study.errors import DataError, JigsawError, TrialFailed, TrialPruned, UsageError


@pytest.mark.parametrize(
    ("failures", "text"),
    [
        ({1: "Traceback\n  File x\nValueError: bad\n"}, "rank 1: ValueError: bad"),
        ({0: "A: a", 2: "x\nB: b"}, "rank 0: A: a; rank 2: B: b"),
        ({3: ""}, "rank 3: ?"),
        ({}, ""),
    ],
)
def test_a_failed_trial_says_the_last_line_of_each_rank(
    failures: dict[int, str], text: str
) -> None:
    error = TrialFailed(failures)
    assert str(error) == text
    assert error.failures == failures


@pytest.mark.parametrize(
    ("refusals", "said"),
    [({}, "None"), ({1: "x is 3"}, "None"), ({1: "x is 3", 0: "y is 4"}, "y is 4")],
)
def test_what_all_ranks_refuse_is_a_refusal(refusals: dict[int, str], said: str) -> None:
    assert str(TrialFailed({0: "A: a", 1: "B: b"}, refusals).refusal) == said


def test_the_tree_of_errors() -> None:
    ours = [e for e in vars(errors).values() if isinstance(e, type)]
    assert all(issubclass(error, JigsawError) for error in ours)
    assert issubclass(DataError, UsageError)
    assert not issubclass(TrialPruned, UsageError)
    # The outline on top of the module is the tree.
    assert all(error.__name__ in str(errors.__doc__) for error in ours)
