"""Successive halving along a cost: who is trained alone, how long, and who goes on.

What is trained ever longer is halved again and again (Jamieson and Talwalkar 2016,
https://arxiv.org/abs/1502.07943). Three things are added. Networks are chosen for the hypervolume
of cost and quality that they add to those that were chosen before them, so that those that go on
are spread along the cost, and a fast one is not dropped because a slow one is more accurate; the
best of its kind always goes on, whatever it costs. Plain networks, one candidate throughout, are
halved by themselves, and first: they are the baseline that others have to add to. And a plan is
counted before anything is trained, so that it keeps a budget whoever goes on.

It is synchronous, a rung is complete before any network is dropped. Whom an asynchronous pruner
keeps (ASHA in Tune, Optuna's `SuccessiveHalvingPruner`) depends on who happens to finish first: a
run that is interrupted and resumed would keep others, and not find their trainings. With some ten
networks a rung, waiting costs little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from search.front import hypervolume, reference_point

if TYPE_CHECKING:
    from search_space import Architecture

LEAST = 2  # of either kind that are trained to the end; others that enter beside plain ones


@dataclass(frozen=True)
class Entrant:
    """An architecture that may be trained.

    Attributes:
        cost: Along which networks are spread, such as latency; 0 of all where there is none.
        price: Of an epoch of its training, in any unit.
        promise: How good it is expected to be.
        plain: Whether it has one candidate throughout.
    """

    architecture: Architecture
    cost: float
    price: float
    promise: float
    plain: bool


@dataclass(frozen=True)
class Halving:
    """Who enters, plain networks and others, and how many rungs there are.

    Rung k takes 2^k epochs, which begin with the weights of the rung before.
    """

    plain: tuple[Entrant, ...]
    others: tuple[Entrant, ...]
    rungs: int

    @property
    def epochs(self) -> list[int]:
        """The epochs of each rung."""
        return [2**rung for rung in range(self.rungs)]

    @cached_property
    def entrants(self) -> dict[Architecture, Entrant]:
        """All who enter, by their architecture."""
        return {entrant.architecture: entrant for entrant in (*self.plain, *self.others)}

    def size(self, rung: int) -> int:
        """Return how many are trained in a rung."""
        return sum(_places(kind, rung) for kind in (self.plain, self.others))

    def trainings(self) -> int:
        """Return how many trainings all rungs have."""
        return sum(map(self.size, range(self.rungs)))

    def price(self, rung: int) -> float:
        """Return the most that a rung can cost: its most expensive networks go on."""
        return 2**rung * sum(
            sum(sorted((e.price for e in kind), reverse=True)[: _places(kind, rung)])
            for kind in (self.plain, self.others)
        )

    def price_of_all(self) -> float:
        """Return the most that all rungs can cost."""
        return sum(self.price(rung) for rung in range(self.rungs))

    def survivors(self, rung: int, scores: Mapping[Architecture, float]) -> list[Architecture]:
        """Return who of those that were trained in a rung goes on to the next, best first.

        Args:
            scores: Of all that were trained in the rung.
        """
        kept: list[Entrant] = []
        for kind in (self.plain, self.others):
            trained = [entrant for entrant in kind if entrant.architecture in scores]
            if not trained:
                continue
            values = {entrant: scores[entrant.architecture] for entrant in (*trained, *kept)}
            best = min(trained, key=lambda each: (-values[each], each.cost, each.architecture))
            rest = [entrant for entrant in trained if entrant != best]
            places = _places(kind, rung + 1) - 1
            kept += [best, *islice(spread(rest, values, [*kept, best]), places)]
        kept.sort(key=lambda entrant: (-scores[entrant.architecture], entrant.cost))
        return [entrant.architecture for entrant in kept]


def plan_halving(candidates: Sequence[Entrant], budget: float, epochs: int) -> Halving | None:
    """Return the plan that trains longest within a budget, and then of the most networks.

    All plain networks enter, and others by how much they promise to add. Training longer comes
    first, because an order after few epochs tells little.

    Args:
        candidates: Different architectures.
        budget: In the unit of `Entrant.price`; no course of events exceeds it.
        epochs: The most that a rung may have.

    Returns:
        None where the budget does not pay for an epoch of the fewest.
    """
    plain, order = _in_order(candidates)
    entering = list(islice(order, LEAST))
    for rungs in range(math.floor(math.log2(epochs)) + 1, 0, -1):
        best, count = None, len(entering[:LEAST])
        while (plan := Halving(plain, tuple(entering[:count]), rungs)).price_of_all() <= budget:
            best, count = plan, count + 1
            entering += islice(order, count - len(entering))
            if len(entering) < count:
                break
        if best is not None:
            return best
    return None


def smallest_halving(candidates: Sequence[Entrant]) -> Halving:
    """Return the plan of one epoch for the fewest: plain networks and `LEAST` others."""
    plain, order = _in_order(candidates)
    return Halving(plain, tuple(islice(order, LEAST)), 1)


def spread(
    candidates: Sequence[Entrant], values: Mapping[Entrant, float], chosen: Sequence[Entrant] = ()
) -> Iterator[Entrant]:
    """Yield candidates by the hypervolume that each adds to those before it.

    It is that of the logarithm of cost, and of value. Of those that add nothing more the best come
    first, and of equal ones the cheapest.

    Args:
        values: Of candidates and chosen ones: the higher, the better.
        chosen: What was chosen before.
    """
    left = sorted(candidates, key=lambda each: (-values[each], each.cost, each.architecture))
    known = [*left, *chosen]
    if not left:
        return
    costs = np.array([each.cost for each in known])
    costs = np.log(costs) if (costs > 0).all() else costs
    losses = dict(zip(known, np.stack([costs, [-values[each] for each in known]], axis=1)))
    every = np.stack(list(losses.values()))
    reference = reference_point(every)
    whole = hypervolume(every.min(axis=0, keepdims=True), reference)
    taken = [losses[each] for each in chosen]
    while left:
        added = [hypervolume(np.stack([*taken, losses[each]]), reference) for each in left]
        shares = np.round(np.array(added) / whole, 9)  # what differs less is rounding
        best = left.pop(int(np.argmax(shares)))  # the first of equal ones
        taken.append(losses[best])
        yield best


def _in_order(candidates: Sequence[Entrant]) -> tuple[tuple[Entrant, ...], Iterator[Entrant]]:
    """Return the plain networks by their cost, and the others by what they promise to add."""
    plain = sorted((e for e in candidates if e.plain), key=lambda e: (e.cost, e.architecture))
    others = [entrant for entrant in candidates if not entrant.plain]
    promises = {entrant: entrant.promise for entrant in candidates}
    return tuple(plain), spread(others, promises, plain)


def _places(kind: Sequence[Entrant], rung: int) -> int:
    """Return how many of a kind are trained in a rung."""
    return min(len(kind), max(LEAST, math.ceil(len(kind) / 2**rung)))
