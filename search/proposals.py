"""Which architecture to try next: a sampler, a memo, and a fallback that never repeats."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import optuna

from search.problem import Problem
from search.samplers import Evolution, make_sampler
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

RE_ASKS = 20  # how often a sampler may repeat itself before it is overruled
DRAWS = 100  # changes to the front, and then random draws, before the space is listed
LISTABLE = 50_000  # spaces up to this size are listed when draws find nothing new


class Proposer:
    """Proposes architectures, each at most once, in canonical form.

    The sampler is told about its repetitions, answered from the memo; they cost no budget and never
    reach the study. What was evaluated before a restart is replayed into it. One that keeps
    repeating itself is overruled by a change to a member of the front.

    Args:
        sampler: A registered name, or an Optuna sampler.
        records: Evaluations of an earlier run of the same search.
        queue: Architectures to propose before all others.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        sampler: str | optuna.samplers.BaseSampler,
        records: Iterable[TrialRecord] = (),
        queue: Iterable[Architecture] = (),
    ) -> None:
        records = list(records)
        self._space = problem.space
        # A resumed search must not draw the architectures of its beginning again.
        seeds = np.random.SeedSequence([problem.seed, len(records)]).generate_state(2)
        self._rng = np.random.default_rng(int(seeds[0]))
        self._sampler = make_sampler(sampler, replace(problem, seed=int(seeds[1])))
        self._fallback = Evolution(replace(problem, seed=int(seeds[0])))
        self._memo: dict[Architecture, TrialRecord | None] = {}  # None: being evaluated
        self._unseen: list[Architecture] | None = None
        for record in records:
            self.learn(record)
        self._queue = deque(self._space.canonical(architecture) for architecture in queue)

    def propose(self) -> Architecture | None:
        """Return the next architecture; None when there is nothing new."""
        architecture = self._next()
        if architecture is not None:
            self._memo[architecture] = None
        return architecture

    def learn(self, record: TrialRecord) -> None:
        """Take the record of an architecture."""
        self._memo[record.architecture] = record
        self._sampler.learn(record)
        self._fallback.learn(record)

    def _next(self) -> Architecture | None:
        while self._queue:
            architecture = self._queue.popleft()
            if architecture not in self._memo:
                return architecture
        for _ in range(RE_ASKS):
            architecture = self._space.canonical(self._sampler.propose())
            if architecture not in self._memo:
                return architecture
            if (known := self._memo[architecture]) is not None:
                self._sampler.learn(known)
        return self._draw_unseen()

    def _draw_unseen(self) -> Architecture | None:
        """A change to a front member, else a random architecture, else what a list has left."""
        draws = itertools.chain(
            (self._fallback.vary() for _ in range(DRAWS)),
            (self._space.sample(self._rng) for _ in range(DRAWS)),
        )
        for drawn in draws:
            architecture = self._space.canonical(drawn)
            if architecture not in self._memo:
                return architecture
        if self._unseen is None:
            self._unseen = self._list_unseen()
        while self._unseen:
            architecture = self._unseen.pop()
            if architecture not in self._memo:
                return architecture
        return None

    def _list_unseen(self) -> list[Architecture]:
        if self._space.size > LISTABLE:
            return []
        choices = itertools.product(*(layer.candidates for layer in self._space.layers))
        every = {self._space.canonical(architecture) for architecture in choices}
        unseen = sorted(every - self._memo.keys())
        self._rng.shuffle(unseen)  # type: ignore[arg-type]
        return unseen
