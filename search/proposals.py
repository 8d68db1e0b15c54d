"""Which architecture to try next: an Optuna sampler, a memo, and a fallback that never repeats."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState

from search.study import parameters_of
from search.trials import TrialRecord, pareto_front

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

RE_ASKS = 20  # how often a sampler may repeat itself before it is overruled
DRAWS = 200  # random draws for something new before the space is listed
LISTABLE = 50_000  # spaces up to this size are listed when draws find nothing new


class Proposer:
    """Proposes architectures, each at most once.

    The sampler works on a study of its own in memory, where a step costs a millisecond. There it
    is also told about its repetitions, answered from the memo, which cost no budget and never
    reach the real study. What was evaluated before a restart is replayed into it.

    `evolution` uses no sampler: it changes a random member of the front until the result is new.
    Every other sampler falls back on the same when it keeps repeating itself.

    Args:
        records: Evaluations of an earlier run of the same search.
        queue: Architectures to propose before all others.
    """

    def __init__(
        self,
        space: ChoiceSpace,
        objectives: Mapping[str, str],
        constraints: Mapping[str, float],
        *,
        sampler: str,
        trials: int,
        seed: int,
        records: Iterable[TrialRecord] = (),
        queue: Iterable[Architecture] = (),
    ) -> None:
        records = list(records)
        self.front: list[TrialRecord] = []
        self._nearest: list[TrialRecord] = []  # the infeasible one with the smallest violation
        self._space, self._objectives, self._constraints = space, objectives, constraints
        self._sampler = sampler
        self._population = min(max(trials // 10, 10), 50)
        # A resumed search mustn't draw the architectures of its beginning again.
        seeds = np.random.SeedSequence([seed, len(records)]).generate_state(2)
        self._rng = np.random.default_rng(int(seeds[0]))
        self._study = optuna.create_study(
            directions=[*objectives.values()],  # type: ignore[list-item]
            sampler=_make_sampler(sampler, self._population, int(seeds[1])),
        )
        self._memo: dict[Architecture, TrialRecord | None] = {}  # None: being evaluated
        self._asked: dict[Architecture, optuna.Trial] = {}
        self._unseen: list[Architecture] | None = None
        for record in records:
            self._ask_for(record.architecture)
            self.learn(record)
        self._queue = deque(space.canonical(architecture) for architecture in queue)

    def propose(self) -> Architecture | None:
        """The next architecture, in canonical form; None when there is nothing new."""
        while self._queue:
            architecture = self._queue.popleft()
            if architecture not in self._memo:
                return self._ask_for(architecture)
        for _ in range(0 if self._sampler == "evolution" else RE_ASKS):
            trial = self._study.ask()
            architecture = self._space.canonical(self._suggest(trial))
            if architecture not in self._memo:
                self._memo[architecture] = None
                self._asked[architecture] = trial
                return architecture
            self._tell(trial, self._memo[architecture])
        fresh = self._draw_unseen()
        return None if fresh is None else self._ask_for(fresh)

    def learn(self, record: TrialRecord) -> None:
        """Takes the outcome of a proposed architecture."""
        self._memo[record.architecture] = record
        self._tell(self._asked.pop(record.architecture), record)
        self.front = pareto_front([*self.front, record], self._objectives)
        if record.state == "infeasible":
            self._nearest = [min([*self._nearest, record], key=self._violation)]

    def _ask_for(self, architecture: Architecture) -> Architecture:
        """Lets the sampler's study propose this very architecture."""
        self._study.enqueue_trial(parameters_of(architecture))
        trial = self._study.ask()
        if self._sampler == "nsga2":
            # A trial joins NSGA-II's population only when it is sampled relative to the others.
            _ = trial.relative_params
        self._suggest(trial)
        self._memo[architecture] = None
        self._asked[architecture] = trial
        return architecture

    def _suggest(self, trial: optuna.Trial) -> Architecture:
        candidates = parameters_of([layer.candidates for layer in self._space.layers])
        return tuple(trial.suggest_categorical(*choice) for choice in candidates.items())

    def _tell(self, trial: optuna.Trial, record: TrialRecord | None) -> None:
        """Tells an outcome in the form from which the sampler learns best.

        TPE learns from a pruned trial with constraints. NSGA-II ignores pruned trials; it compares
        infeasible ones by their violation alone, so any number may stand for what wasn't
        measured.
        """
        if record is None or record.state in ("failed", "unmeasurable"):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, excess in self._excesses(record).items():
            trial.set_constraint(name, excess)
        if record.state == "complete" or self._sampler == "nsga2":
            self._study.tell(trial, [record.metrics.get(name, 0.0) for name in self._objectives])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _excesses(self, record: TrialRecord) -> dict[str, float]:
        """How far each metric exceeds its bound (below 0: keeps it), as a share of the bound.

        A share, because samplers add them up: 0.1 ms mustn't vanish beside 100,000 parameters.
        """
        return {
            name: (record.metrics[name] - bound) / (abs(bound) or 1.0)
            for name, bound in self._constraints.items()
            if name in record.metrics
        }

    def _violation(self, record: TrialRecord) -> float:
        return sum(max(excess, 0.0) for excess in self._excesses(record).values())

    def _draw_unseen(self) -> Architecture | None:
        """A change to a front member, else a random architecture, else what a list has left."""
        for draw in range(DRAWS):
            architecture = self._vary() if draw < DRAWS // 2 else self._space.sample(self._rng)
            architecture = self._space.canonical(architecture)
            if architecture not in self._memo:
                return architecture
        if self._unseen is None:
            self._unseen = self._list_unseen()
        while self._unseen:
            architecture = self._unseen.pop()
            if architecture not in self._memo:
                return architecture
        return None

    def _vary(self) -> Architecture:
        """A mutation of a front member, or, one time in four, a cross of two of them."""
        starting = self._sampler == "evolution" and len(self._memo) < self._population
        if starting or not (self.front or self._nearest):
            return self._space.sample(self._rng)
        parents = [record.architecture for record in self.front or self._nearest]
        parent = parents[self._rng.integers(len(parents))]
        if len(parents) > 1 and self._rng.random() < 0.25:
            other = parents[self._rng.integers(len(parents))]
            return self._space.crossover(parent, other, self._rng)
        return self._space.mutate(parent, self._rng)

    def _list_unseen(self) -> list[Architecture]:
        if self._space.size > LISTABLE:
            return []
        choices = itertools.product(*(layer.candidates for layer in self._space.layers))
        every = {self._space.canonical(architecture) for architecture in choices}
        unseen = sorted(every - self._memo.keys())
        self._rng.shuffle(unseen)  # type: ignore[arg-type]
        return unseen


def _make_sampler(name: str, population: int, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "multivariate is experimental", since 2020
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        if name == "tpe":
            return optuna.samplers.TPESampler(multivariate=True, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)
