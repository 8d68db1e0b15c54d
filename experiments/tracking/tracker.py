"""Tracking: one MLflow run per search, with child runs for training, every trial, every retrain.

::

    with Tracker(Path("runs/digits"), uri=None, experiment="evolute", run_name="digits",
                 tags=code_version(), params=flatten(config)) as tracker:
        with tracker.child("trial-0", "trial", params={"choice": "inv7"}) as trial:
            trial.metrics({"accuracy": 97.2, "latency_ms": 1.3})
        tracker.metrics({"hypervolume": 0.61}, step=0)

Every call appends a line to a journal in the work directory and returns (microseconds); a
background thread brings the journal into MLflow. A slow or dead tracking server therefore costs a
search nothing: it is reported once, and what is missing follows when the server answers, with the
next run in the same directory, or by ``evolute sync DIRECTORY``.

One work directory is one parent run: tracking a directory again continues its run.
"""

from __future__ import annotations

import getpass
import logging
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from configs.atomic import write_atomically
from configs.secrets import hide
from experiments.tracking.journal import Journal
from experiments.tracking.model_registry import Registered, check_folder, check_model_name
from experiments.tracking.provenance import code_version, flatten
from experiments.tracking.store import check_uri
from experiments.tracking.uploader import Uploader
from experiments.tracking.view import NOTE

logger = logging.getLogger("evolute.tracking")

RETIRED = "retired"  # the kind of a run that does not count any more

__all__ = ["Run", "Tracker", "code_version", "flatten"]


class Run:
    """One run: a search, or a child of it. As a context manager it finishes as its block ends."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker = tracker
        self.run_id = run_id
        """Our own id, known at once; MLflow's run has it as the tag ``evolute.run``."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, nested or flat. MLflow never changes one: a new value becomes a tag."""
        known = self._tracker.known_params.setdefault(self.run_id, {})
        flat = flatten(values)
        changed = {key: value for key, value in flat.items() if known.get(key, value) != value}
        new = {key: value for key, value in flat.items() if key not in known}
        known |= new
        if new:
            self._append("log", params=new)
        if changed:
            self.tags({f"changed.{key}": value for key, value in changed.items()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at ``step``: whole ones as they are, others to six digits, as people read.

        What is not finite is no measurement: left out, and said so. The study and the tables of the
        report have all digits.
        """
        finite = {key: _readable(value) for key, value in values.items() if math.isfinite(value)}
        if finite:
            self._append("log", metrics=finite, step=step or 0)
        for key in values.keys() - finite.keys():
            note = f"{values[key]} at step {step or 0}"
            logger.warning("Metric %s = %s is not logged: not a finite number", key, note)
            self.tags({f"not_finite.{key}": note})

    def describe(self, text: str) -> None:
        """Set the description that is shown on the run's page, in Markdown."""
        self.tags({NOTE: text})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; a later value replaces an earlier one."""
        self._append("log", tags=flatten(values))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file or the content of a directory, below ``folder`` in the run's artifacts."""
        kept = self._tracker.journal.keep(path, self.run_id, folder)
        self._append("artifact", path=kept, folder=folder)

    def copy(self, file: Path) -> None:
        """Attach a file as it is now, whatever becomes of it before the upload."""
        kept = self._tracker.journal.files / self.run_id / file.name
        write_atomically(kept, file.read_bytes())
        self.artifact(kept)

    def text(self, name: str, content: str, mode: int | None = None) -> None:
        """Attach ``content`` as the text file ``name``, e.g. ``"config/config.yaml"``.

        Args:
            mode: Of the copy in the work directory; see `configs.atomic.write_atomically`.
        """
        path = self._tracker.journal.files / self.run_id / name
        write_atomically(path, content, mode)
        self.artifact(path, str(Path(name).parent) if "/" in name else "")

    def register(
        self, folder: Path, name: str, metrics: Mapping[str, float], timeout: float = 60.0
    ) -> Registered | None:
        """Register the model files of ``folder`` as a version of model ``name``.

        See `experiments.tracking.model_registry.register_folder`.

        Returns:
            The version; None when the store has not answered within ``timeout`` seconds, in which
            case it appears when the journal is uploaded.

        Raises:
            UserError: The folder lacks a file, or the name can't be registered.
        """
        check_folder(folder)
        check_model_name(name)
        kept = self._tracker.journal.keep(folder, self.run_id, "model")
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self._append("register", path=kept, name=name, metrics=finite)
        self._tracker.flush(timeout)
        return self._tracker.registered(self.run_id)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``. Does nothing the second time."""
        if self.run_id in self._tracker.open_runs:
            del self._tracker.open_runs[self.run_id]
            self._tracker.finished.add(self.run_id)
            self._append("finish", status=status)

    def _append(self, event: str, **content: Any) -> None:
        self._tracker.append({"event": event, "run": self.run_id, **content})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


class Tracker(Run):
    """The parent run of a work directory, and the thread that uploads it.

    ``uri`` is any MLflow tracking URI; None or "" is the database that
    `experiments.tracking.store.local_store` says, with ``mlartifacts`` beside it.

    Raises:
        UserError: No store can have the URI. A server that does not answer is no error.
    """

    def __init__(
        self,
        directory: Path,
        *,
        uri: str | None,
        experiment: str,
        run_name: str,
        tags: Mapping[str, Any],
        params: Mapping[str, Any],
    ) -> None:
        if uri:
            check_uri(uri)
        self.journal = Journal(directory)
        self.known_params: dict[str, dict[str, str]] = {}
        self.open_runs: dict[str, Run] = {}
        self._names: dict[str, str] = {}
        self.finished: set[str] = set()
        root = self._read_journal()
        super().__init__(self, root or uuid.uuid4().hex)
        self._uploader = Uploader(self.journal, uri, experiment, self.run_id)
        place = {"uri": hide(uri) if uri else None, "experiment": experiment}
        if root:
            self._append("resume", **place)
        else:
            self._append("run", parent=None, name=run_name, tags=self._tags("search"), **place)
        self.open_runs[self.run_id] = self
        self._uploader.start()
        self.tags(tags)
        self.params(params)

    def _read_journal(self) -> str | None:
        """Learn what earlier processes tracked here; return the parent run's id, if any."""
        root = None
        for event, _ in self.journal.read():
            run = event["run"]
            match event["event"]:
                case "run" if event["parent"] is None:
                    root = root or run
                case "run":
                    self._names[event["name"]] = run
                case "log":
                    self.known_params.setdefault(run, {}).update(event.get("params", {}))
                    if event.get("tags", {}).get("evolute.kind") == RETIRED:
                        self._names = {k: v for k, v in self._names.items() if v != run}
                case "finish":
                    self.finished.add(run)
                case "resume":
                    self.finished.discard(run)
        return root

    def _tags(self, kind: str) -> dict[str, str]:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = "unknown"  # a container's user without a name
        return {"evolute.kind": kind, "mlflow.source.name": "evolute", "mlflow.user": user}

    def append(self, event: dict[str, Any]) -> None:
        """Write one event to the journal and tell the uploader."""
        if event["event"] == "run":
            event["tags"] |= {"evolute.run": event["run"], "evolute.root": self.run_id}
        self.journal.append(event)
        self._uploader.notify()

    def child(
        self,
        name: str,
        kind: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> Run:
        """Begin a child run; ``kind`` is ``supernet``, ``trial``, ``rank`` or ``retrain``.

        A child is known by its name: asking for it again, also after a restart, continues it.

        Args:
            seconds: How long ago it began, where it is logged by another process than that did it.
        """
        if name in self._names:
            run = Run(self, self._names[name])
            run._append("resume")
            if tags:
                run.tags(tags)
        else:
            run = Run(self, uuid.uuid4().hex)
            self._names[name] = run.run_id
            began, known = int(1000 * (time.time() - seconds)), flatten(tags or {})
            all_tags = self._tags(kind) | known
            run._append("run", parent=self.run_id, name=name, tags=all_tags, time=began)
        self.finished.discard(run.run_id)
        self.open_runs[run.run_id] = run
        if params:
            run.params(params)
        return run

    def retire(self, prefixes: tuple[str, ...], reason: str) -> None:
        """Let children, by how their names begin, be of the past: new ones take their names."""
        for name in [name for name in self._names if name.startswith(prefixes)]:
            run = Run(self, self._names.pop(name))
            run.tags({"evolute.kind": RETIRED, RETIRED: reason})

    def finished_child(self, name: str) -> Run | None:
        """Return a child that was finished, for what is added later: it keeps its end. Or None."""
        return Run(self, self._names[name]) if self.has_finished(name) else None

    def tagged(self, key: str) -> set[str]:
        """Return the names of the children whose tag ``key`` is not empty."""
        events = [event for event, _ in self.journal.read() if key in event.get("tags", {})]
        last = {event["run"]: event["tags"][key] for event in events}
        return {name for name, run in self._names.items() if last.get(run)}

    def has_finished(self, name: str) -> bool:
        """Return whether the child ``name`` was finished, by this process or an earlier one."""
        return self._names.get(name) in self.finished

    def registered(self, run_id: str) -> Registered | None:
        """Return the model version registered from a run, once the store has it."""
        return self._uploader.registered.get(run_id)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until the store has everything; return False when it takes longer (seconds)."""
        return self._uploader.flush(timeout)

    def finish(self, status: str = "FINISHED", timeout: float = 60.0) -> None:
        """End the parent and every open child, and wait up to ``timeout`` seconds for the upload.

        What a dead server has not got by then stays in the journal, and a warning says so.
        """
        if self.run_id not in self.open_runs:
            return
        for run in [run for run in self.open_runs.values() if run is not self]:
            run.finish(status)
        super().finish(status)
        started = time.monotonic()
        if not self.flush(timeout):
            logger.warning(
                "Not everything is in MLflow after %.0f s of waiting; nothing is lost. Upload the "
                "rest with: %s",
                time.monotonic() - started,
                self._uploader.command,
            )
        self._uploader.close()


def _readable(value: float) -> float:
    return float(value) if float(value).is_integer() else float(f"{value:.6g}")
