"""What an executor does for a search.

It asks `propose` for an architecture, has it evaluated, and gives it to `finish` with its
`Outcome`, until `propose` has no more. An executor may hold several at a time, and tries one again
whose process died. It calls both functions from the thread of the search only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.executors.evaluation import Outcome

Architecture = tuple[str, ...]

Evaluator = Callable[[Architecture], Mapping[str, float]]
Propose = Callable[[], Architecture | None]
Finish = Callable[[Architecture, Outcome], None]
