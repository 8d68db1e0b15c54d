"""What an executor does for a search.

It asks `propose` for a `Task`, calls the evaluator with its arguments (`evaluate`), and gives the
architecture to `finish` with its `Outcome`, until `propose` has no more. An executor may hold
several at a time, and tries one again whose process died. It calls both functions from the thread
of the search only.

In a search that races, the second argument of the evaluator is the front as it was when the
architecture was proposed. An evaluator that finds that the architecture cannot reach this front any
more raises `Stopped` with what it knows by then. It may do so wrongly once in a hundred times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.executors.evaluation import Outcome, Task

Architecture = tuple[str, ...]

Evaluator = Callable[..., Mapping[str, float]]  # of an architecture, and of the front in a race
Propose = Callable[[], Task | None]
Finish = Callable[[Architecture, Outcome], None]
