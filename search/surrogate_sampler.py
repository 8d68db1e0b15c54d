"""The sampler `surrogate`: the architecture by which the front is expected to grow most.

What is known is computed, what is timed is predicted by `LayerSums`, everything else by a
`Surrogate`; `expected_improvement` weighs them. docs/search.md has formulas and sources.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from evaluators.metrics import TIMED, describe_metric
from search.acquisition import expected_improvement, probability_below
from search.front import non_dominated, reference_point
from search.layer_sums import LayerSums
from search.problem import Problem
from search.scales import plain_scale, scale_of, variances
from search.surrogate import Surrogate
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

LISTABLE = 20_000  # spaces up to this size are listed as a whole
POOL = 1_000  # architectures among which the next one is sought in larger spaces
CLIMBS = 8  # best of them, whose neighbours are looked at too
CLIMB_STEPS = 3
FIRST = 10  # architectures that are spread out before a model chooses
REFITS = 1.1  # by which factor observations grow between two fits of the hyperparameters
MOST_OBSERVATIONS = 2_000  # that a model learns from: the cost is cubic


class SurrogateSampler:
    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._rng = np.random.default_rng(problem.seed)
        self._records: dict[Architecture, TrialRecord] = {}
        self._pending: dict[Architecture, None] = {}
        self._known = KnownMetrics(problem.known)
        self._models = {
            name: Modelled(name, problem)
            for name in problem.goal.metrics
            if name not in problem.known
        }
        self._all = _list_space(problem.space)

    def propose(self) -> Architecture:
        proposed = self._choose()
        self._pending[proposed] = None
        return proposed

    def learn(self, record: TrialRecord) -> None:
        self._records[record.architecture] = record
        self._pending.pop(record.architecture, None)

    def _choose(self) -> Architecture:
        records = [r for r in self._records.values() if r.metrics]
        if len(self._records) + len(self._pending) < FIRST:
            return self._spread_out()
        if not all(any(name in r.metrics for r in records) for name in self._models):
            return self._spread_out()
        for model in self._models.values():
            model.learn(records, [*self._pending])
        front, reference = self._front()

        def worth(architectures):
            return self._worth(architectures, front, reference)

        pool = self._pool()
        if not pool:
            return self._problem.space.sample(self._rng)
        values = worth(pool)
        if self._all is None:
            pool, values = self._climb(pool, values, worth)
        return pool[int(np.argmax(values))]

    def _taken(self, architecture):
        return architecture in self._records or architecture in self._pending

    def _pool(self):
        if self._all is not None:
            return [a for a in self._all if not self._taken(a)]
        space, rng = self._problem.space, self._rng
        parents = [r.architecture for r in self._problem.goal.front([*self._records.values()])]
        pool = {space.sample(rng): None for _ in range(POOL // 4 if parents else POOL)}
        while parents and len(pool) < POOL and rng.random() < 1 - 1e-4:
            parent = parents[rng.integers(len(parents))]
            if rng.random() < 0.33:
                other = parents[rng.integers(len(parents))]
                pool[space.mutate(space.crossover(parent, other, rng), rng)] = None
            else:
                pool[space.mutate(parent, rng)] = None
        return [a for a in pool if not self._taken(a)]

    def _climb(self, pool, values, worth):
        space = self._problem.space
        best = dict(zip(pool, values))
        for _ in range(CLIMB_STEPS):
            top = sorted(best, key=best.get, reverse=True)[:CLIMBS]
            near = {}
            for a in top:
                for i, layer in enumerate(space.layers):
                    for c in layer.candidates:
                        near[space.canonical((*a[:i], c, *a[i + 1 :]))] = None
            near = [a for a in near if a not in best and not self._taken(a)]
            if not near:
                break
            best |= dict(zip(near, worth(near)))
        return list(best), np.array(list(best.values()))

    def _predict(self, architectures):
        goal = self._problem.goal
        out = {}
        for name in goal.metrics:
            if name in self._models:
                out[name] = self._models[name].predict(architectures)
            else:
                v = self._known(name, architectures)
                out[name] = v, np.zeros(len(v))
        return out

    def _bound(self, name):
        bound = np.array(self._problem.goal.bounds[name])
        return self._models[name].scale.of(bound) if name in self._models else bound

    def _losses(self, predicted):
        goal = self._problem.goal
        mean = np.stack([goal.sign(n) * predicted[n][0] for n in goal.objectives], axis=1)
        dev = np.stack([predicted[n][1] for n in goal.objectives], axis=1)
        return mean, dev

    def _front(self):
        goal = self._problem.goal
        complete = [a for a, r in self._records.items() if r.state == "complete"]
        tried = complete + [*self._pending]
        if not tried:
            return np.zeros((0, len(goal.objectives))), None
        predicted = self._predict(tried)
        mean, _ = self._losses(predicted)
        keeps = np.ones(len(tried), bool)
        for name in goal.bounds:
            keeps[len(complete) :] &= (predicted[name][0] <= self._bound(name))[len(complete) :]
        mean = mean[keeps]
        if not len(mean):
            mean_all, _ = self._losses(predicted)
            return np.zeros((0, len(goal.objectives))), reference_point(mean_all)
        front = mean[non_dominated(mean)]
        return front, reference_point(mean)

    def _worth(self, architectures, front, reference):
        goal = self._problem.goal
        predicted = self._predict(architectures)
        mean, dev = self._losses(predicted)
        if reference is None:
            reference = reference_point(mean)
        worth = expected_improvement(mean, dev, front, reference)
        violation = np.zeros(len(architectures))
        for name, bound in goal.bounds.items():
            m, d = predicted[name]
            if name in self._models:
                worth = worth * probability_below(m, d, self._bound(name))
            else:
                violation += np.maximum(m - bound, 0) / (abs(bound) or 1.0)
        return np.where(violation > 0, -violation, worth)

    def _spread_out(self):
        space, rng = self._problem.space, self._rng
        tried = [*self._records, *self._pending]
        drawn = {space.sample(rng): None for _ in range(200)}
        pool = [a for a in drawn if not self._taken(a)] or [*drawn]
        pool = self._keeping(pool)
        if not tried:
            return pool[0]

        def dist(a):
            return min(sum(x != y for x, y in zip(a, b)) for b in tried)

        return max(pool, key=dist)

    def _keeping(self, pool):
        bounds = {n: b for n, b in self._problem.goal.bounds.items() if n not in self._models}
        kept = [a for a in pool if all(self._known.one(n, a) <= b for n, b in bounds.items())]
        return kept or pool


class KnownMetrics:
    def __init__(self, known):
        self._known = known
        self._values = {name: {} for name in known}

    def one(self, name, a):
        values = self._values[name]
        if a not in values:
            values[a] = float(self._known[name](a))
        return values[a]

    def __call__(self, name, architectures):
        return np.array([self.one(name, a) for a in architectures])


class Modelled:
    def __init__(self, name, problem):
        self.name, self.scale = name, plain_scale()
        self._timed = describe_metric(name).effort == TIMED
        self._model = (
            LayerSums(problem.space)
            if self._timed
            else Surrogate(problem.space, features=problem.features)
        )
        self._fitted = 0

    def learn(self, records, pending):
        with_it = [r for r in records if self.name in r.metrics][-MOST_OBSERVATIONS:]
        A = [r.architecture for r in with_it]
        raw = [r.metrics[self.name] for r in with_it]
        if self._timed:
            self._model.fit(A, raw)
            return
        self.scale = scale_of(self.name, raw)
        y = self.scale.of(np.array(raw))
        noise = np.array(variances(self.name, self.scale, [r.metrics for r in with_it]))
        if len(A) >= REFITS * self._fitted:
            self._model.fit(A, y, noise)
            self._fitted = len(A)
        else:
            self._model.update(A, y, noise)
        if pending:
            believed, _ = self._model.predict(pending)
            self._model.update([*A, *pending], [*y, *believed], [*noise, *np.zeros(len(pending))])

    def predict(self, architectures):
        return self._model.predict(architectures)


def _list_space(space):
    if space.size > LISTABLE:
        return None
    choices = itertools.product(*(layer.candidates for layer in space.layers))
    return [*dict.fromkeys(space.canonical(a) for a in choices)]
