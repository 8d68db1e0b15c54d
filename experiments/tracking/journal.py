"""The local copy of everything that is tracked: one JSON line per event, in the work directory.

A search appends to the journal and never waits for a tracking server. Whoever uploads (the
background thread of the driver, or `evolute sync` later) reads the journal from where the last
upload ended. Three files share the work directory with the study and the checkpoints:

- ``tracking.jsonl``       the events, append-only;
- ``tracking.files/``      texts and files that would otherwise be gone by the time of the upload;
- ``tracking.state.json``  for every store, the byte of the journal up to which it has everything,
  and the store's id of the parent run.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.atomic import write_atomically
from configs.disk import disk_error
from configs.kept import read_or_none

Event = dict[str, Any]


class Journal:
    """The events of one work directory; safe to append to from several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.path = self.directory / "tracking.jsonl"
        self.files = self.directory / "tracking.files"
        self._state = self.directory / "tracking.state.json"
        self._lock = threading.Lock()
        self._end_torn_line()

    def _end_torn_line(self) -> None:
        """A process killed while it wrote leaves half a line; the next event must not join it."""
        if self.size:
            with self.path.open("rb+") as stream:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")

    @property
    def size(self) -> int:
        """Length of the journal in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: Event) -> None:
        """Write one event, stamped with the time in milliseconds, through to the disk's cache."""
        line = json.dumps({"time": int(time.time() * 1000), **event}) + "\n"
        with self._lock:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                # One unbuffered write of one line: the lines of two processes never mix.
                with self.path.open("ab", buffering=0) as stream:
                    stream.write(line.encode())
            except OSError as error:
                raise disk_error(error, self.path, len(line)) or error from None

    def read(self, offset: int = 0) -> Iterator[tuple[Event, int]]:
        """Yield each complete event from byte ``offset`` on, with the byte where the next is."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the torn line of a killed process
                if isinstance(event, dict) and "event" in event and "run" in event:
                    yield event, offset

    def keep(self, path: Path, run: str, folder: str) -> str:
        """Return where an artifact will be at the time of the upload, relative to the directory.

        What lies in the work directory stays where it is; anything else is copied.
        """
        path = path.resolve()
        if path.is_relative_to(self.directory):
            return str(path.relative_to(self.directory))
        target = self.files / run / folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            write_atomically(target, path.read_bytes())
        return str(target.relative_to(self.directory))

    def uploaded(self, store: str) -> int:
        """Return the byte up to which ``store`` has everything; 0 for a store not seen before."""
        return int(self._state_of_stores().get(store, {}).get("offset", 0))

    def mark_uploaded(self, store: str, offset: int, run_id: str) -> None:
        """Remember that ``store`` has everything before byte ``offset``, under ``run_id``."""
        state = {**self._state_of_stores(), store: {"offset": offset, "run_id": run_id}}
        write_atomically(self._state, json.dumps(state))

    def is_of(self, run_id: str) -> bool:
        """Return whether some store knows the parent run of this directory under an MLflow id."""
        return run_id in {store.get("run_id") for store in self._state_of_stores().values()}

    def _state_of_stores(self) -> dict[str, dict[str, Any]]:
        # uploading again is harmless: every event can be applied twice
        return read_or_none(self._state, _stores, "all is uploaded again") or {}

    @contextmanager
    def uploading(self) -> Iterator[bool]:
        """Yield whether this process may upload now: at most one does, or runs appear twice."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / ".tracking.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _stores(values: Any) -> dict[str, dict[str, Any]]:
    return {
        name: {"offset": int(store["offset"]), "run_id": str(store["run_id"])}
        for name, store in values.items()
    }
