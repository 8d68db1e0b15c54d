"""Which architectures a proposal is chosen from: all of a small space, else likely ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

Worth = Callable[[Sequence["Architecture"]], np.ndarray]

RANDOM = 200  # architectures drawn over the whole space for one proposal
VARIED = 600  # changes of the front, and crosses of two of its members, drawn for one proposal
CROSSED = 1 / 3  # of these, the share that are crosses, changed as well
CLIMBED = 5  # of the best, whose neighbours are looked at
CLIMBS = 2  # how often


def all_of(space: ChoiceSpace) -> list[Architecture]:
    """Return all architectures of a space in canonical form."""
    choices = itertools.product(*(layer.candidates for layer in space.layers))
    return [*dict.fromkeys(map(space.canonical, choices))]


def variations(
    space: ChoiceSpace, parents: Sequence[Architecture], rng: np.random.Generator
) -> list[Architecture]:
    """Return random architectures, and changes and crosses of some parents; each once."""
    drawn = dict.fromkeys(space.sample(rng) for _ in range(RANDOM))
    for _ in range(VARIED if parents else 0):
        parent, other = (parents[int(rng.integers(len(parents)))] for _ in range(2))
        if rng.random() < CROSSED:
            parent = space.crossover(parent, other, rng)
        drawn[space.mutate(parent, rng)] = None
    return list(drawn)


def climb(
    space: ChoiceSpace,
    worths: dict[Architecture, float],
    worth: Worth,
    taken: Collection[Architecture],
    times: int = CLIMBS,
) -> dict[Architecture, float]:
    """Return the worth of some architectures, and of the neighbours of the best of them.

    Neighbours differ in one layer. What is taken is left out.
    """
    worths = dict(worths)
    for _ in range(times):
        best = sorted(worths, key=lambda architecture: -worths[architecture])[:CLIMBED]
        near = dict.fromkeys(itertools.chain.from_iterable(neighbours(space, a) for a in best))
        new = [a for a in near if a not in worths and a not in taken]
        if not new:
            break
        worths |= zip(new, worth(new).tolist())
    return worths


def neighbours(space: ChoiceSpace, architecture: Architecture) -> Iterable[Architecture]:
    """Return what one change of one layer makes of an architecture, in canonical form."""
    for index, layer in enumerate(space.layers):
        for name in layer.candidates:
            yield space.canonical((*architecture[:index], name, *architecture[index + 1 :]))


def farthest(pool: Sequence[Architecture], tried: Sequence[Architecture]) -> Architecture:
    """Return the architecture whose nearest neighbour among those tried is farthest (maximin).

    The distance of two is the number of layers in which they differ.
    """
    nearest = np.full(len(pool), np.inf)
    for other in tried:
        nearest = np.minimum(nearest, (np.array(pool) != np.array(other)).sum(axis=1))
    return pool[int(np.argmax(nearest))]
