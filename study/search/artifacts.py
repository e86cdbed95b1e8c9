"""Files that trials leave: kept, and read back by their name."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study
from optuna.trial import Trial

from study.search.studies import conditions_of

__all__ = ["keep_files", "read_artifact"]


def keep_files(trial: Trial, folder: str | None, files: Mapping[str, bytes]) -> None:
    """Keep the files that a trial leaves.

    Args:
        trial: the trial, while it runs.
        folder: of the study's artifacts; None keeps nothing.
        files: contents by name.

    Raises:
        OSError: they cannot be written.
    """
    if not files or folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    with TemporaryDirectory() as place:
        for name, content in files.items():
            path = Path(place, name)
            path.write_bytes(content)
            upload_artifact(study_or_trial=trial, file_path=str(path), artifact_store=store)


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
