"""Successive halving along a cost: who is trained alone, how long, and who goes on.

What is trained ever longer is halved again and again (Jamieson and Talwalkar 2016,
https://arxiv.org/abs/1502.07943). Three things are added. Networks are compared in groups of
similar cost, so that a fast one is not dropped because a slow one is more accurate. The best plain
network of a group, one candidate throughout, always stays: it is the baseline. And a plan is
counted before anything is trained, so that it keeps a budget whoever goes on.

It is synchronous, a rung is complete before any network is dropped. Whom an asynchronous pruner
keeps (ASHA in Tune, Optuna's `SuccessiveHalvingPruner`) depends on who happens to finish first: a
run that is interrupted and resumed would keep others, and not find their trainings. With some ten
networks a rung, waiting costs little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_space import Architecture

GROUPS = 3  # along the cost
LEAST = 2  # networks of a group that are trained to the end; likewise those that enter beside plain


@dataclass(frozen=True)
class Entrant:
    """An architecture that may be trained.

    Attributes:
        cost: What it is grouped by, such as its latency.
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
    """Who enters, in groups of rising cost, and how many rungs there are.

    Rung k takes 2^k epochs, which begin with the weights of the rung before.
    """

    groups: tuple[tuple[Entrant, ...], ...]
    rungs: int

    @property
    def epochs(self) -> list[int]:
        """The epochs of each rung."""
        return [2**rung for rung in range(self.rungs)]

    @cached_property
    def entrants(self) -> dict[Architecture, Entrant]:
        """All who enter, by their architecture."""
        return {entrant.architecture: entrant for group in self.groups for entrant in group}

    def places(self, group: int, rung: int) -> int:
        """Return how many of a group are trained in a rung."""
        size = len(self.groups[group])
        return min(size, max(LEAST, math.ceil(size / 2**rung)))

    def trainings(self) -> int:
        """Return how many trainings all rungs have."""
        groups = range(len(self.groups))
        return sum(self.places(group, rung) for group in groups for rung in range(self.rungs))

    def price(self, rung: int) -> float:
        """Return the most that a rung can cost: its most expensive networks go on."""
        return 2**rung * sum(
            sum(sorted((e.price for e in members), reverse=True)[: self.places(group, rung)])
            for group, members in enumerate(self.groups)
        )

    def price_of_all(self) -> float:
        """Return the most that all rungs can cost."""
        return sum(self.price(rung) for rung in range(self.rungs))

    def survivors(self, rung: int, scores: Mapping[Architecture, float]) -> list[Architecture]:
        """Return who of those that were trained in a rung goes on to the next, best first.

        In each group the best have the places of the next rung, the cheaper of equals first; where
        no plain network is among them, the best plain one takes the last.

        Args:
            scores: Of all that were trained in the rung.
        """
        kept: list[Architecture] = []
        for group, members in enumerate(self.groups):
            trained = [entrant for entrant in members if entrant.architecture in scores]
            trained.sort(key=lambda entrant: (-scores[entrant.architecture], entrant.cost))
            best = trained[: self.places(group, rung + 1)]
            plain = next((entrant for entrant in trained if entrant.plain), None)
            if plain is not None and plain not in best:
                best[-1] = plain
            kept += [entrant.architecture for entrant in best]
        return kept


def plan_halving(
    candidates: Sequence[Entrant], budget: float, epochs: int, groups: int = GROUPS
) -> Halving | None:
    """Return the plan that trains longest within a budget, and then of the most networks.

    All plain networks enter, and as many others of each group, the most promising. Training longer
    comes first, because an order after few epochs tells little.

    Args:
        candidates: Different architectures; groups have equally many of them.
        budget: In the unit of `Entrant.price`; no course of events exceeds it.
        epochs: The most that a rung may have.

    Returns:
        None where the budget does not pay for an epoch of the fewest.
    """
    for rungs in range(math.floor(math.log2(epochs)) + 1, 0, -1):
        best = None
        for others in range(LEAST, max(len(candidates), LEAST) + 1):
            plan = smallest_halving(candidates, groups, others, rungs)
            if plan.price_of_all() > budget:
                break
            best = plan
        if best is not None:
            return best
    return None


def smallest_halving(
    candidates: Sequence[Entrant], groups: int = GROUPS, others: int = LEAST, rungs: int = 1
) -> Halving:
    """Return the plan in which a number of others enters each group beside the plain networks."""
    ordered = sorted(candidates, key=lambda entrant: (entrant.cost, entrant.architecture))
    groups = max(min(groups, len(ordered) // LEAST), 1)
    size, rest = divmod(len(ordered), groups)
    ends = [size * group + min(group, rest) for group in range(groups + 1)]
    return Halving(tuple(_entering(ordered[a:b], others) for a, b in pairwise(ends)), rungs)


def _entering(members: Sequence[Entrant], others: int) -> tuple[Entrant, ...]:
    plain = [entrant for entrant in members if entrant.plain]
    rest = sorted(
        (entrant for entrant in members if not entrant.plain), key=lambda e: (-e.promise, e.cost)
    )
    return (*plain, *rest[:others])
