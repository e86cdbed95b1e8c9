"""Optuna's own contract of a storage, on every database."""

from datetime import datetime

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from study.search.incremental import IncrementalStorage
from study.search.storage import open_storage

# Optuna's columns have no fractions of a second on MySQL, so its own storage fails these there, too.
FRACTIONS = {
    "test_create_new_trial",
    "test_create_new_trial_with_template_trial",
    "test_get_all_trials",
    "test_get_trial",
}


@pytest.fixture
def storage(request: pytest.FixtureRequest, database_url: str) -> IncrementalStorage:
    start = request.node.callspec.params.get("start_time", datetime.max)
    whole = start is None or not start.microsecond
    if database_url.startswith("mysql") and request.node.originalname in FRACTIONS and not whole:
        reason = "MySQL keeps whole seconds"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    return open_storage(database_url)


class TestIncrementalStorage(StorageTestCase):
    """The tests Optuna ships."""
