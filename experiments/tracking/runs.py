"""Finds the work directory of a search that was tracked, here or on another machine."""

from __future__ import annotations

import os
from pathlib import Path

from configs.errors import UserError
from experiments.console import busy
from experiments.tracking.journal import Journal


def find_search(run: str) -> Path:
    """Return the work directory of a search, given as that directory or as an MLflow run id.

    A run id is looked for in the work directories below ``runs/``, then in the store that
    MLFLOW_TRACKING_URI names, from which configuration and front are downloaded.

    Raises:
        UserError: There is neither.
    """
    directory = Path(run)
    if directory.is_dir():
        return directory
    runs = Path("runs")
    places = ("*/tracking.jsonl", "*/studies/*/tracking.jsonl")
    for journal in sorted(file for place in places for file in runs.glob(place)):
        if Journal(journal.parent).is_of(run):
            return journal.parent
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return _download(run)
    raise UserError(
        f"--search: {run!r} is neither a work directory nor a run below runs/; to fetch it from a "
        "tracking server set MLFLOW_TRACKING_URI"
    )


def _download(run: str) -> Path:
    import mlflow

    directory = Path("runs") / run
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with busy(f"Downloading run {run} ..."):
            for item in ("config.yaml", "report"):
                mlflow.artifacts.download_artifacts(
                    run_id=run, artifact_path=item, dst_path=str(directory)
                )
    except Exception as error:  # MLflow raises what the store behind the URI raises
        raise UserError(f"--search: run {run!r} can't be fetched from MLflow: {error}") from None
    return directory
