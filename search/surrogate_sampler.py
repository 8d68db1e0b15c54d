"""The sampler `surrogate`: tries the architecture by which the front is expected to grow most.

docs/search.md has the method, its formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from search.beliefs import beliefs
from search.expectation import Expectation, expectation, known_excess
from search.pool import all_of, climb, farthest, variations
from search.problem import Problem
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

FIRST = 10  # trials, spread out over the space, before a model chooses; fewer in small budgets
DRAWN = 200  # architectures from which each of them is chosen
LISTABLE = 20_000  # larger spaces are never looked at as a whole,
MOST_PAIRS = 3_000_000  # nor smaller ones once architectures x observations are more than this
SHORTLIST = 200  # architectures that are prepared for a proposal


class SurrogateSampler:
    """Proposes what promises most, after a start that is spread out over the space.

    A proposal takes two steps. The first fits the models to all records, looks at thousands of
    architectures and keeps a shortlist; it runs in a thread of its own while workers evaluate. The
    second tells the models what was learnt meanwhile, looks at the shortlist again and answers:
    milliseconds. What is being evaluated is believed to turn out as predicted, so that no two
    workers are sent to the same place.

    The first step for a proposal begins when the one before is made, and knows what was known then:
    which proposals are made depends on the order of `propose` and `learn` alone, not on timing.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._first = max(min(FIRST, problem.trials // 4), 2)
        self._rng = np.random.default_rng(problem.seed)
        self._beliefs = beliefs(problem)
        self._listed = all_of(problem.space) if problem.space.size <= LISTABLE else []
        self._records: dict[Architecture, TrialRecord] = {}
        self._pending: dict[Architecture, None] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="surrogate")
        self._prepared: Future[list[Architecture]] | None = None

    def propose(self) -> Architecture:
        """Return the architecture to try next; none twice, unless there are no others."""
        proposed = self._choose() if self._is_modelled() else self._spread_out()
        self._pending[proposed] = None
        if self._is_modelled():
            records, pending = [*self._records.values()], [*self._pending]
            self._prepared = self._thread.submit(self._prepare_aside, records, pending)
        return proposed

    def learn(self, record: TrialRecord) -> None:
        """Take a record; one that failed is believed to be as it was predicted."""
        self._records[record.architecture] = record
        self._pending.pop(record.architecture, None)

    def _is_modelled(self) -> bool:
        """Whether each metric was measured at least once, and the start is over."""
        begun = len(self._records) + len(self._pending) >= self._first
        measured = set[str]().union(*(record.metrics for record in self._records.values()))
        return begun and measured >= self._beliefs.keys() - self._problem.known.keys()

    def _choose(self) -> Architecture:
        records, pending = [*self._records.values()], [*self._pending]
        if self._prepared is None:
            shortlist = self._prepare(records, pending)
        else:
            shortlist = self._prepared.result()
        left = [a for a in shortlist if a not in self._records and a not in self._pending]
        if not left:
            return self._problem.space.sample(self._rng)
        with threadpool_limits(1, "blas"):
            expected = self._expect(records, pending, fit=False)
            return left[int(np.argmax(expected.worth(left)))]

    def _prepare_aside(
        self, records: list[TrialRecord], pending: list[Architecture]
    ) -> list[Architecture]:
        """Prepare, but not while the processor is timed."""
        from evaluators.device_lock import shared_device  # loads torch

        with shared_device("cpu"):
            return self._prepare(records, pending)

    def _prepare(
        self, records: list[TrialRecord], pending: list[Architecture]
    ) -> list[Architecture]:
        """Return the most promising architectures that are neither evaluated nor pending."""
        # One thread: with several, OpenBLAS waits for cores that the workers have.
        with threadpool_limits(1, "blas"):
            expected = self._expect(records, pending, fit=True)
            taken = {*pending, *(record.architecture for record in records)}
            whole = 0 < len(self._listed) * len(taken) <= MOST_PAIRS
            space = self._problem.space
            pool = self._listed if whole else variations(space, expected.parents, self._rng)
            pool = [a for a in pool if a not in taken]
            worths = dict(zip(pool, expected.worth(pool).tolist())) if pool else {}
            if not whole:
                worths = climb(space, worths, expected.worth, taken)
            return sorted(worths, key=lambda a: -worths[a])[:SHORTLIST]

    def _expect(
        self, records: list[TrialRecord], pending: list[Architecture], *, fit: bool
    ) -> Expectation:
        failed = [record.architecture for record in records if record.state == "failed"]
        for belief in self._beliefs.values():
            belief.learn(records, [*pending, *failed], fit=fit)
        return expectation(self._problem, self._beliefs, records, pending)

    def _spread_out(self) -> Architecture:
        """Return an architecture far from all others, within the bounds that are known."""
        space = self._problem.space
        taken = dict.fromkeys([*self._records, *self._pending])
        draws = dict.fromkeys(space.sample(self._rng) for _ in range(DRAWN))
        drawn = [a for a in draws if a not in taken]
        worths = dict(zip(drawn, self._within(drawn).tolist()))
        if max(worths.values(), default=0.0) < 0:
            worths = climb(space, worths, self._within, taken, len(space.layers))
        kept = [a for a in worths if worths[a] == max(worths.values())]
        return farthest(kept, [*taken]) if kept else space.sample(self._rng)

    def _within(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """0 where the bounds on what is known are kept, and minus the excess elsewhere."""
        return -known_excess(self._problem, self._beliefs, architectures)
