"""The worker's side of a trial: a Tune Trainable that keeps one evaluator for all its trials."""

from __future__ import annotations

from typing import Any

from ray import cloudpickle, tune

from search.executors.evaluation import evaluate


class ArchitectureTrial(tune.Trainable):
    """Evaluates one architecture per trial; the process, and with it the evaluator, is reused.

    The evaluator arrives pickled and is unpickled inside the first trial, so that an evaluator
    that cannot be loaded here is that trial's message rather than a worker that dies silently.
    """

    def setup(self, config: dict[str, Any], pickled_evaluator: bytes = b"") -> None:
        self._pickled_evaluator = pickled_evaluator
        self._evaluator: Any = None
        self._task = config["task"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        return {"outcome": evaluate(self._load, self._task), "done": True}

    def _load(self) -> Any:
        if self._evaluator is None:
            self._evaluator = cloudpickle.loads(self._pickled_evaluator)
        return self._evaluator
