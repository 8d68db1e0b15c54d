"""Reads back what was tracked of a work directory: its runs in MLflow, and their artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.sqlite import sqlite_url
from experiments.places import DATABASE, STUDIES, local_store, root_of
from experiments.tracking.credentials import complete
from experiments.tracking.journal import Event, Journal
from experiments.tracking.store import open_client
from experiments.workspace import Workspace


@dataclass(frozen=True)
class TrackedRun:
    """A run, with the last value of each metric; times are in seconds.

    Attributes:
        ended: None of a run that goes on, or was cut off.
    """

    name: str
    kind: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    started: float
    ended: float | None


@dataclass(frozen=True)
class Record:
    """All that MLflow has of a work directory.

    Attributes:
        children: Of all kinds; of another study's supernet, the supernet's run as well.
        artifacts: A folder with ``config.yaml`` and ``report/``, as far as they were logged.
    """

    parent: TrackedRun
    children: tuple[TrackedRun, ...]
    artifacts: Path

    def of_kind(self, kind: str) -> list[TrackedRun]:
        """Return the children of a kind, in the order in which they began."""
        return sorted((c for c in self.children if c.kind == kind), key=lambda run: run.started)


def read_record(directory: Path, into: Path) -> Record:
    """Return what the store of a work directory has of it, and download the artifacts.

    The store is ``mlflow.db`` in the directory, or the server with which it was tracked, or the
    store that it shares with others.

    Raises:
        UserError: Nothing was tracked there.
    """
    client, parents = _parents(directory)
    if not parents:
        raise UserError(f"{directory}: no run of a search is in its MLflow store")
    named = Workspace(directory)
    suffix = f"/{directory.absolute().name}" if named.root != directory else ""
    own = [run for run in parents if run.info.run_name.endswith(suffix)] if suffix else [
        run for run in parents if "/" not in run.info.run_name
    ]  # fmt: skip
    if not own:
        raise UserError(f"{directory}: no run of this study is in its MLflow store")
    parent = max(own, key=lambda run: run.info.start_time)
    children = _children(client, parent)
    if not any(run.kind == "supernet" for run in children):
        others = [child for run in parents if run is not parent for child in _children(client, run)]
        children += [run for run in others if run.kind == "supernet"]
    for item in client.list_artifacts(parent.info.run_id):
        if item.path in ("config.yaml", "report"):
            client.download_artifacts(parent.info.run_id, item.path, str(into))
    return Record(_run(parent), tuple(children), into)


def _parents(directory: Path) -> tuple[Any, list[Any]]:
    """Return a client, and the runs of the searches of a work directory."""
    root, database = root_of(directory.resolve()), local_store(directory)
    openings = _openings(directory)
    if not (root / DATABASE).exists() and openings and openings[-1]["uri"]:
        client = open_client(complete(openings[-1]["uri"]))
        return client, _search(client, f"tags.`evolute.run` = '{openings[-1]['run']}'")
    if not database.exists() or not (openings or database.parent == root):
        raise UserError(f"{directory}: nothing was tracked there; name a work directory")
    client = open_client(sqlite_url(database))
    parents = _search(client, "tags.`evolute.kind` = 'search'")
    if database.parent != root:  # which is that of others too
        folders = [root, *(root / STUDIES).glob("*")]
        own = {opening["run"] for folder in folders for opening in _openings(folder)}
        parents = [run for run in parents if run.data.tags["evolute.run"] in own]
    return client, parents


def _openings(directory: Path) -> list[Event]:
    """Return the events by which the run of a directory began and was resumed."""
    return [event for event, _ in Journal(directory).read() if "experiment" in event]


def _children(client: Any, parent: Any) -> list[TrackedRun]:
    condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return [_run(run) for run in _search(client, condition)]


def _search(client: Any, condition: str) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs, token = [], None
    while True:
        page = client.search_runs(experiments, condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _run(run: Any) -> TrackedRun:
    return TrackedRun(
        name=run.info.run_name,
        kind=run.data.tags.get("evolute.kind", ""),
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
        started=run.info.start_time / 1000,
        ended=None if run.info.end_time is None else run.info.end_time / 1000,
    )
