"""From the journal of a work directory to an MLflow store: in the background, or afterwards."""

from __future__ import annotations

import logging
import threading
import time
from itertools import islice
from pathlib import Path

from configs.errors import UserError
from configs.secrets import HIDDEN, hide, redact
from experiments.tracking.credentials import complete
from experiments.tracking.journal import Journal
from experiments.tracking.model_registry import Registered
from experiments.tracking.store import Store, check_uri, local_uri

logger = logging.getLogger("evolute.tracking")

EVENTS_PER_PASS = 50  # what is repeated, at most, after a failure
LONGEST_PAUSE = 60.0  # seconds between two tries at a dead server


def store_name(uri: str | None) -> str:
    """Return the store's name in the journal's state: without a password, movable when local."""
    return hide(uri) if uri else "local"


def upload_pending(journal: Journal, store: Store, name: str) -> bool:
    """Bring up to `EVENTS_PER_PASS` events into the store; return whether there were any."""
    offset = journal.uploaded(name)
    if store.root not in store.runs or offset > journal.size:
        offset = 0  # a new or emptied store, or a new journal: everything from the beginning
    batch = list(islice(journal.read(offset), EVENTS_PER_PASS))
    if not batch:
        return False
    store.apply([event for event, _ in batch], journal)
    journal.mark_uploaded(name, batch[-1][1], store.runs[store.root])
    return True


class Uploader(threading.Thread):
    """Uploads a journal while it grows; survives a slow, dead or returning server.

    While the server is away it is tried again after 1, 2, 4, ... 60 seconds. The first failure of
    an outage is reported, the others are not.
    """

    def __init__(self, journal: Journal, uri: str | None, experiment: str, root: str) -> None:
        super().__init__(name="tracking", daemon=True)
        self.journal = journal
        self.name_of_store = store_name(uri)
        self.uri = uri or local_uri(journal.directory)
        self.experiment = experiment
        self.root = root
        self.registered: dict[str, Registered] = {}
        self._failures = 0
        self._away = False
        self._wake = threading.Event()
        self._closing = threading.Event()

    def run(self) -> None:
        """Upload until `close`; called by ``start``."""
        pause = 1.0
        while not self._closing.is_set():
            self._wake.clear()
            try:
                with self.journal.uploading() as mine:
                    if mine:
                        self._upload_as_it_comes()
                pause = 1.0
            except Exception as error:  # whatever the store does, the search goes on
                self._report(error)
                self._failures += 1
                pause = min(2 * pause, LONGEST_PAUSE) if self._failures > 1 else pause
            self._wake.wait(pause)

    def _upload_as_it_comes(self) -> None:
        store = Store(self.uri, self.experiment, self.root)
        self.registered = store.registered
        while not self._closing.is_set():
            self._wake.clear()
            if upload_pending(self.journal, store, self.name_of_store):
                self._failures = 0
                if self._away:
                    self._away = False
                    logger.warning("The tracking store %s answers again.", hide(self.uri))
            else:
                self._wake.wait(1.0)

    def _report(self, error: Exception) -> None:
        if self._away:
            return
        self._away = True
        logger.warning(
            "The tracking store %s cannot be reached (%s). Work goes on; everything is kept in %s "
            "and follows when the store answers, or by: %s",
            hide(self.uri),
            redact(str(error) or repr(error)).splitlines()[0][:200],
            self.journal.path,
            self.command,
        )

    @property
    def command(self) -> str:
        """What a person types to upload the rest."""
        uri = f" {self.name_of_store}" if HIDDEN in self.name_of_store else ""
        return f"evolute sync {self.journal.directory}{uri}"

    def notify(self) -> None:
        """Say that there is something new to upload."""
        if not self._away:
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that is in the journal now is in the store; return whether it is.

        Returns after ``timeout`` seconds at the latest, and at once when a try fails.
        """
        target = self.journal.size
        deadline = time.monotonic() + timeout
        failures = self._failures
        self._wake.set()
        while self.journal.uploaded(self.name_of_store) < target:
            if self._failures > failures or time.monotonic() > deadline or not self.is_alive():
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Stop uploading; what is not uploaded stays in the journal."""
        self._closing.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout=1.0)


def upload(directory: Path, uri: str | None = None) -> int:
    """Bring everything in the journal of ``directory`` into a store.

    Can be repeated, and can bring the same run into several stores.

    Args:
        uri: Default is the store that the directory was last tracked with.

    Returns:
        The number of events.

    Raises:
        UserError: There is no journal, another process uploads it now, or the store can't be
            reached.
    """
    journal = Journal(directory)
    roots = [event for event, _ in journal.read() if "experiment" in event]
    if not roots:
        raise UserError(f"{directory}: no tracking.jsonl with a run in it; nothing to upload")
    uri = uri or roots[-1]["uri"]
    uri = complete(uri) if uri and uri != local_uri(directory) else ""
    check_uri(uri or local_uri(directory))
    name = store_name(uri)
    with journal.uploading() as mine:
        if not mine:
            raise UserError(f"{directory}: another process is uploading it now; try again later")
        try:
            store = Store(uri or local_uri(directory), roots[-1]["experiment"], roots[-1]["run"])
            start = journal.uploaded(name) if store.root in store.runs else 0
            count = sum(1 for _ in journal.read(start))
            while upload_pending(journal, store, name):
                pass
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{hide(uri) if uri else directory}: the tracking store cannot be reached; "
                f"nothing is lost ({redact(str(error))[:200]})"
            ) from error
    return count
