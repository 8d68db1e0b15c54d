"""The worker's side of a trial: a Tune Trainable that keeps one evaluator for all its trials."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from ray import cloudpickle, tune

from search.executors.evaluation import evaluate
from search.executors.ray_ledger import Ledger


class ArchitectureTrial(tune.Trainable):
    """Evaluates one architecture per trial; the process, and with it the evaluator, is reused.

    The evaluator arrives pickled and is unpickled inside the first trial, so that an evaluator
    that cannot be loaded here is that trial's message rather than a worker that dies silently.
    """

    def setup(
        self,
        config: dict[str, Any],
        pickled_evaluator: bytes = b"",
        ledger: Ledger | None = None,
        timeout_s: float | None = None,
    ) -> None:
        assert ledger is not None
        self._pickled_evaluator = pickled_evaluator
        self._ledger, self._timeout_s = ledger, timeout_s
        self._evaluator: Any = None
        self._task, self._key = config["task"], config["key"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task, self._key = new_config["task"], new_config["key"]
        return True

    def step(self) -> dict[str, Any]:
        self._ledger.note(self._key)
        with self._ended_when_late():
            return {"outcome": evaluate(self._load, self._task), "done": True}

    @contextlib.contextmanager
    def _ended_when_late(self) -> Iterator[None]:
        """End this process, with a note, where the block takes too long: nothing else stops it."""
        if self._timeout_s is None:
            yield
            return

        def end() -> None:
            self._ledger.note(self._key, late=True)
            os._exit(1)

        timer = threading.Timer(self._timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _load(self) -> Any:
        if self._evaluator is None:
            self._evaluator = cloudpickle.loads(self._pickled_evaluator)
        return self._evaluator
