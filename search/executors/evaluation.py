"""One evaluation, wherever it runs: an evaluator is called, and what happened is put in words."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import Stopped, TooNoisy

MESSAGE_LENGTH = 300

Front = Mapping[int, Mapping[str, float]]  # the number of a trial to its metrics


@dataclass(frozen=True)
class Task:
    """What an evaluator is called with.

    Attributes:
        front: The members of the front when the architecture was proposed. Of an architecture that
            is to be measured in full it is empty; None where a search does not race: then the
            evaluator is called with the architecture alone.
    """

    architecture: tuple[str, ...]
    front: Front | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the call."""
        return (self.architecture,) if self.front is None else (self.architecture, self.front)


@dataclass(frozen=True)
class Outcome:
    """What became of an evaluation.

    Attributes:
        metrics: What the evaluator returned, or `Stopped` brought; empty where it raised another
            exception.
        error: One line about the exception, or about the death of the process; empty without one.
        too_noisy: Whether the exception was `TooNoisy`.
        stopped: The message of `Stopped`; empty without one.
        seconds: How long it took.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    too_noisy: bool = False
    stopped: str = ""
    seconds: float = 0.0


def evaluate(load: Callable[[], Callable[..., Any]], task: Task) -> Outcome:
    """Call an evaluator and return what came of it; no exception of its own leaves this function.

    Args:
        load: Gives the evaluator. One that cannot be loaded is a message like any other.
    """
    started, stopped = time.perf_counter(), ""
    try:
        try:
            returned = load()(*task.arguments)
        except Stopped as stop:
            returned, stopped = stop.metrics, str(stop)
        metrics = _as_metrics(returned)
    except Exception as error:
        seconds = time.perf_counter() - started
        return Outcome({}, _one_line(error), isinstance(error, TooNoisy), seconds=seconds)
    return Outcome(metrics, stopped=stopped, seconds=time.perf_counter() - started)


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
