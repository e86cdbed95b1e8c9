"""Optuna's own contract of a storage, on every database."""

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from study.search.incremental import IncrementalStorage
from study.search.storage import open_storage


@pytest.fixture
def storage(database_url: str) -> IncrementalStorage:
    return open_storage(database_url)


class TestIncrementalStorage(StorageTestCase):
    """The tests Optuna ships."""
