"""Files that trials left: read back by their name."""

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study

from study.search.studies import conditions_of

__all__ = ["read_artifact"]


def read_artifact(study: Study, number: int, filename: str) -> bytes | None:
    """Return the content of a file that trial `number` left, or None if it left no such file.

    Args:
        study: the study.
        number: the trial's number in it.
        filename: the file's name, such as `examples.png`; the last one of that name counts.
    """
    conditions = conditions_of(study)
    trial = study.get_trials(deepcopy=False)[number]
    found = [
        m for m in get_all_artifact_meta(trial, storage=study._storage) if m.filename == filename
    ]
    if conditions is None or conditions.artifacts is None or not found:
        return None
    store = FileSystemArtifactStore(conditions.artifacts)
    try:
        with store.open_reader(found[-1].artifact_id) as stream:
            return stream.read()
    except ArtifactNotFound:
        return None
