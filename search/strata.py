"""Architectures drawn evenly over the range of a cost, of which random ones fill the middle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.pool import all_of

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

STRATA = 10  # of equal width
POOL = 50  # random architectures for each that is drawn


def draw_stratified(
    space: ChoiceSpace,
    costs: Callable[[Sequence[Architecture]], np.ndarray],
    count: int,
    taken: Collection[Architecture],
    rng: np.random.Generator,
) -> list[Architecture]:
    """Draw architectures in canonical form, from every stratum of the cost in turn.

    The pool is a small space as a whole, and random architectures of a larger one. Strata that are
    used up are passed over, so that fewer come from the ends of the range; fewer than `count` are
    returned where the pool has no more.

    Args:
        costs: Gives the cost of many architectures, shape (architectures,).
        taken: Not to be drawn.
    """
    if space.size <= POOL * count:
        every = all_of(space)
        found = [every[int(index)] for index in rng.permutation(len(every))]
    else:
        found = list(dict.fromkeys(space.sample(rng) for _ in range(POOL * count)))
    pool = [architecture for architecture in found if architecture not in taken]
    if not pool:
        return []
    values = costs(pool)
    inner_edges = np.linspace(values.min(), values.max(), STRATA + 1)[1:-1]
    strata: list[list[Architecture]] = [[] for _ in range(STRATA)]
    for architecture, stratum in zip(pool, np.digitize(values, inner_edges)):
        strata[stratum].append(architecture)
    turns = itertools.zip_longest(*(strata[int(index)] for index in rng.permutation(STRATA)))
    return [each for turn in turns for each in turn if each is not None][:count]
