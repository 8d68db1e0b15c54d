"""The worker's side of a trial: a Tune Trainable that keeps one evaluator for all its trials."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune

MESSAGE_LENGTH = 300


class ArchitectureTrial(tune.Trainable):
    """Evaluates one architecture per trial; the process, and with it the evaluator, is reused.

    The evaluator arrives pickled and is unpickled inside the first trial, so that an evaluator
    that can't be loaded here is that trial's message rather than a worker that dies silently.
    """

    def setup(self, config: dict[str, Any], pickled_evaluator: bytes = b"") -> None:
        self._pickled_evaluator = pickled_evaluator
        self._evaluator: Any = None
        self._architecture = tuple(config["architecture"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._architecture = tuple(new_config["architecture"])
        return True

    def step(self) -> dict[str, Any]:
        started = time.perf_counter()
        metrics: dict[str, float | None] = {}
        message, unmeasurable = "", False
        try:
            if self._evaluator is None:
                self._evaluator = cloudpickle.loads(self._pickled_evaluator)
            metrics = as_metrics(self._evaluator(self._architecture))
        except Exception as error:
            message, unmeasurable = describe(error), is_too_noisy(error)
        seconds = time.perf_counter() - started
        # A list, because Tune would flatten a dictionary into "outcome/metrics/accuracy".
        return {"outcome": [metrics, message, unmeasurable, seconds], "done": True}


def as_metrics(returned: Any) -> dict[str, float | None]:
    """Plain floats from whatever numbers an evaluator returned; None stays None."""
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"the evaluator returned {type(returned).__name__}; "
            "a mapping from metric names to numbers is needed"
        )
    return {str(name): None if value is None else float(value) for name, value in returned.items()}


def describe(error: Exception) -> str:
    """One line: the error and the place where it was raised."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}"[: MESSAGE_LENGTH - len(place)] + place


def is_too_noisy(error: Exception) -> bool:
    """Whether a measurement gave up because the device was too noisy.

    Looked up rather than imported: an error of that class can only exist where its module is
    loaded already, and a search over a table shouldn't load torch for it.
    """
    latency = sys.modules.get("evaluators.latency")
    return latency is not None and isinstance(error, latency.TooNoisy)
