"""What workers note about trials, for the time when they can say nothing any more.

Tune tells that a trial ended with its process, not whether it had begun, nor where. So a worker
notes it before it evaluates, in the key-value store of Ray's head node (`internal_kv`: of Ray's own
libraries, and without a public counterpart short of one more process).
"""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_put,
)

NAMESPACE = b"evolute"


@dataclass(frozen=True)
class Entry:
    """What a worker noted of a trial.

    Attributes:
        node: The id of the machine.
        late: Whether it ended itself because the time was over.
    """

    node: str
    late: bool


@dataclass(frozen=True)
class Ledger:
    """The notes of one search, by the id of the trial in Tune."""

    search: str

    def note(self, trial: str, *, late: bool = False) -> None:
        """Note that this worker evaluates a trial, or that it will end because it is `late`."""
        node = ray.get_runtime_context().get_node_id()
        _internal_kv_put(self._key(trial), f"{node} {int(late)}".encode(), namespace=NAMESPACE)

    def read(self, trial: str) -> Entry | None:
        """Return what was noted of a trial; None where it was not begun."""
        value = _internal_kv_get(self._key(trial), namespace=NAMESPACE)
        if value is None:
            return None
        node, late = value.decode().split()
        return Entry(node, late == "1")

    def clear(self) -> None:
        """Remove all notes of the search."""
        _internal_kv_del(self.search.encode(), del_by_prefix=True, namespace=NAMESPACE)

    def _key(self, trial: str) -> bytes:
        return f"{self.search}/{trial}".encode()
