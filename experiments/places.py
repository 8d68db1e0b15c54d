"""Where work directories lie, further studies in them, and the store they are tracked in."""

from __future__ import annotations

from pathlib import Path

RUNS = "runs"  # where work directories are that nobody named
STUDIES = "studies"  # in a work directory, those of other studies on its supernet
DATABASE = "mlflow.db"


def root_of(directory: Path) -> Path:
    """Return the work directory of the supernet: of a study, that in which it lies."""
    parent = directory.absolute().parent
    return parent.parent if parent.name == STUDIES else directory


def local_store(directory: Path) -> Path:
    """Return the MLflow database of a work directory that is tracked nowhere else.

    Those in a folder called `runs` share the one in that folder; any other has its own. One that
    has its own goes on with it. All studies of a supernet are in one store.
    """
    root = root_of(directory.resolve())
    own = root / DATABASE
    return root.parent / DATABASE if root.parent.name == RUNS and not own.exists() else own
