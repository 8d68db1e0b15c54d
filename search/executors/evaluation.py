"""One evaluation, wherever it runs: an evaluator is called, and what happened is put in words."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import TooNoisy

MESSAGE_LENGTH = 300


@dataclass(frozen=True)
class Outcome:
    """What became of an evaluation.

    Attributes:
        metrics: What the evaluator returned; empty where it raised.
        error: One line about the exception, or about the death of the process; empty without one.
        too_noisy: Whether the exception was `TooNoisy`.
        seconds: How long it took.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    too_noisy: bool = False
    seconds: float = 0.0


def evaluate(load: Callable[[], Callable[..., Any]], architecture: tuple[str, ...]) -> Outcome:
    """Call an evaluator and return what came of it; no exception of its own leaves this function.

    Args:
        load: Gives the evaluator. One that cannot be loaded is a message like any other.
    """
    started = time.perf_counter()
    try:
        metrics = _as_metrics(load()(architecture))
    except Exception as error:
        seconds = time.perf_counter() - started
        return Outcome({}, _one_line(error), isinstance(error, TooNoisy), seconds)
    return Outcome(metrics, seconds=time.perf_counter() - started)


def _as_metrics(returned: Any) -> dict[str, float | None]:
    """Plain floats from whatever numbers an evaluator returned; None stays None."""
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"the evaluator returned {type(returned).__name__}; "
            "a mapping from metric names to numbers is needed"
        )
    return {str(name): None if value is None else float(value) for name, value in returned.items()}


def _one_line(error: Exception) -> str:
    """The error and the place where it was raised."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}"[: MESSAGE_LENGTH - len(place)] + place
