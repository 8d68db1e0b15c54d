"""An MLflow store as the place where the events of a journal arrive.

Every event can be applied twice with the same result, so that an upload cut off anywhere is simply
repeated: runs are found again by the tag ``evolute.run``, metrics carry the time at which they were
measured, parameters and artifacts overwrite themselves with the same content.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from configs.errors import UserError
from configs.secrets import hide, redact, remember
from configs.sqlite import SQLITE, sqlite_url
from experiments.places import local_store
from experiments.tracking.journal import Event, Journal
from experiments.tracking.model_registry import Registered, register_folder
from experiments.tracking.view import experiment_tags

logger = logging.getLogger("evolute.tracking")

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
# What the server will refuse however often it is asked; everything else is worth another try.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")
OPENING_S = 60.0  # to wait while another process makes the tables of a new store
METRICS_PER_BATCH, PARAMS_PER_BATCH = 800, 100  # MLflow's limits are 1000 in all and 100


def local_uri(directory: Path) -> str:
    """Return the default store of a work directory, see `experiments.places.local_store`."""
    return sqlite_url(local_store(directory))


def check_uri(uri: str) -> None:
    """Check a tracking URI.

    Raises:
        UserError: No store can be opened with it.
    """
    remember(uri)
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if scheme not in SCHEMES:
        raise UserError(
            f"tracking.uri: {hide(uri)!r} is no tracking URI; it should be a server "
            "(http://HOST:5000), a database (sqlite:///FILE.db, postgresql://...) or empty "
            "for an SQLite file here (docs/results-in-mlflow.md)"
        )


def import_mlflow() -> Any:
    """Import MLflow, set up for a program that keeps its own copy and its own patience.

    MLflow's defaults block one call to a dead server for four minutes, report usage, and print.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", message=".*noload.*")  # SQLAlchemy 2.1 about MLflow's code
    import mlflow

    # A line for every table of a new database, and for the example of every model.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def open_client(uri: str) -> Any:
    """Return an ``MlflowClient`` for tracking and registry on one store."""
    mlflow = import_mlflow()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment_id(client: Any, uri: str, name: str) -> str:
    """Return an experiment's id; artifacts of an SQLite store are kept beside the database."""
    experiment, tags = client.get_experiment_by_name(name), experiment_tags()
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        for key, value in tags.items():
            if experiment.tags.get(key) in ("", None):  # somebody's own description stays
                client.set_experiment_tag(experiment.experiment_id, key, value)
        return experiment.experiment_id
    location = None
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///")).resolve()
        location = (database.parent / "mlartifacts").as_uri()
    return client.create_experiment(name, artifact_location=location, tags=tags)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let nobody else make the tables of an SQLite store meanwhile: two at it damage them."""
    if not uri.startswith(SQLITE):
        yield
        return
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f".{database.name}.lock"), timeout=OPENING_S):
        yield


class Store:
    """One MLflow experiment, and the runs in it that belong to one journal."""

    def __init__(self, uri: str, experiment: str, root: str) -> None:
        """Connect; ``root`` is our id of the parent run.

        Raises:
            MlflowException: The store can't be reached.
        """
        with _alone(uri):
            self.client = open_client(uri)
            self.experiment_id = _experiment_id(self.client, uri, experiment)
        self.root = root
        self.runs = self._find_runs()
        self.registered: dict[str, Registered] = {}

    def _find_runs(self) -> dict[str, str]:
        """Return our run id -> MLflow's, for every run of this journal that the store has."""
        runs: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`evolute.root` = '{self.root}'",
                max_results=1000,
                page_token=token,
            )
            runs |= {run.data.tags["evolute.run"]: run.info.run_id for run in page}
            token = page.token
            if not token:
                return runs

    def apply(self, events: list[Event], journal: Journal) -> None:
        """Bring ``events`` into the store, with one write for all that is logged to a run.

        What the store refuses for good (a parameter changed, a run deleted) is reported and left
        out.

        Raises:
            MlflowException: The store can't be reached.
        """
        logged: dict[str, list[Event]] = {}
        for event in events:
            run = event["run"]
            if event["event"] == "log":
                logged.setdefault(run, []).append(event)
                continue
            if event["event"] == "run":
                self._create(event)
                continue
            if event["event"] == "finish":
                self._attempt(self._log, run, logged.pop(run, []))
            self._attempt(self._apply_one, event, journal)
        for run, entries in logged.items():
            self._attempt(self._log, run, entries)

    def _attempt(self, write: Any, *arguments: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            write(*arguments)
        except (MlflowException, UserError) as error:
            if isinstance(error, MlflowException) and error.error_code not in REFUSALS:
                raise
            logger.warning("MLflow refused an entry, it is left out: %s", redact(str(error)))

    def _apply_one(self, event: Event, journal: Journal) -> None:
        run = event["run"]
        match event["event"]:
            case "resume":
                self.client.update_run(self._id(run), status="RUNNING")
            case "finish":
                self.client.set_terminated(self._id(run), event["status"], event["time"])
            case "artifact":
                self._log_artifact(self._id(run), journal.directory / event["path"], event)
            case "register":
                folder = journal.directory / event["path"]
                self.registered[run] = register_folder(
                    self.client, folder, event["name"], event["metrics"], self._id(run)
                )

    def _id(self, run: str) -> str:
        from mlflow.exceptions import MlflowException

        if run not in self.runs:
            raise MlflowException.invalid_parameter_value(f"run {run} was deleted from the store")
        return self.runs[run]

    def _create(self, event: Event) -> None:
        if event["run"] in self.runs:
            return
        tags = dict(event["tags"])
        if event["parent"]:
            tags["mlflow.parentRunId"] = self._id(event["parent"])
        created = self.client.create_run(
            self.experiment_id, start_time=event["time"], tags=tags, run_name=event["name"]
        )
        self.runs[event["run"]] = created.info.run_id

    def _log(self, run: str, entries: list[Event]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if not entries:
            return
        metrics = [
            Metric(key.replace("@", "."), value, entry["time"], entry.get("step", 0))
            for entry in entries
            for key, value in entry.get("metrics", {}).items()
        ]
        params = [Param(*item) for entry in entries for item in entry.get("params", {}).items()]
        tags = [RunTag(*item) for entry in entries for item in entry.get("tags", {}).items()]
        run_id = self._id(run)
        while metrics or params or tags:
            self.client.log_batch(
                run_id,
                metrics=metrics[:METRICS_PER_BATCH],
                params=params[:PARAMS_PER_BATCH],
                tags=tags[:PARAMS_PER_BATCH],
            )
            metrics = metrics[METRICS_PER_BATCH:]
            params, tags = params[PARAMS_PER_BATCH:], tags[PARAMS_PER_BATCH:]

    def _log_artifact(self, run_id: str, path: Path, event: Event) -> None:
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        try:
            log(run_id, str(path), event["folder"] or None)
        except Exception as error:
            # A file that is gone, or an artifact store that wants other credentials, must not hold
            # up the numbers behind it; a dead server must: this call fails on that one.
            self.client.get_run(run_id)
            logger.warning("%s could not be uploaded as an artifact: %s", path, redact(str(error)))
