"""Which paths a training step takes: pure functions of the seed and the step.

Every process of a distributed run and every resumed run therefore draws the same ones. Paths are in
canonical form, as everything that a search evaluates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from search_space.space import Architecture, ChoiceSpace, Layer

BETWEEN = 2  # random paths of a sandwich (https://arxiv.org/abs/2003.11142, section 3.1)

Choice = tuple[str, bool]  # a candidate, and whether it learns


@dataclass(frozen=True)
class TrainingPath:
    """An architecture to train, and which of its layers' candidates learn on it.

    A candidate that doesn't learn still passes gradients on to the layers before it.
    """

    architecture: Architecture
    learns: tuple[bool, ...]


def uniform_paths(space: ChoiceSpace, seed: int, step: int) -> list[TrainingPath]:
    """Return one random architecture in canonical form (SPOS, https://arxiv.org/abs/1904.00420)."""
    architecture = space.sample(np.random.default_rng((seed, step)))
    return [TrainingPath(architecture, (True,) * len(architecture))]


def fair_paths(space: ChoiceSpace, seed: int, step: int) -> list[TrainingPath]:
    """Return canonical paths on which every operator of every layer learns exactly once.

    There are as many paths as the longest candidate list is long, each layer in an order of its
    own (FairNAS, https://arxiv.org/abs/1907.01845). What the operators leave over is shared by
    skips, which have nothing to learn, and by repeats, on which an operator doesn't learn.

    In a canonical path only the last layers of a run of equal layers are skipped. So skips aren't
    drawn layer by layer: of m paths, m // candidates (their share) end each run early, by a number
    of layers that is drawn uniformly.
    """
    rng = np.random.default_rng((seed, step))
    count = max(len(layer.candidates) for layer in space.layers)
    columns: list[list[Choice]] = []
    for _, run in groupby(space.layers):
        columns += _columns(space, list(run), count, rng)
    return [TrainingPath(*zip(*choices)) for choices in zip(*columns)]


def _columns(
    space: ChoiceSpace, run: Sequence[Layer], count: int, rng: np.random.Generator
) -> Iterator[list[Choice]]:
    """Yield for each layer of a run of equal ones what it is on each of `count` paths."""
    names = run[0].candidates
    operators = [name for name in names if not space.is_skip(name)]
    skip = next((name for name in names if space.is_skip(name)), "")
    skipping = [(skip, True)] * count
    if not operators:
        yield from [skipping] * len(run)
        return
    kept = np.full(count, len(run))  # how many layers of the run each path goes through
    if skip:
        early = rng.permutation(count)[: count // len(names)]
        kept[early] = rng.integers(0, len(run), len(early))
    for position in range(len(run)):
        through = rng.permutation(np.flatnonzero(kept > position))
        repeats = rng.choice(operators, len(through) - len(operators))
        choices = [(name, True) for name in operators] + [(str(name), False) for name in repeats]
        column = list(skipping)
        for path, choice in zip(through, choices):
            column[path] = choice
        yield column


def sandwich_paths(
    ends: tuple[Architecture, Architecture], space: ChoiceSpace, seed: int, step: int
) -> list[TrainingPath]:
    """Return the largest architecture, then random ones, then the smallest.

    The sandwich rule (https://arxiv.org/abs/1903.05134, section 3.1): what is trained at both ends
    of a space holds in between. The largest comes first, so that others may learn from it.

    Args:
        ends: The smallest and the largest architecture of the space.
    """
    rng = np.random.default_rng((seed, step))
    between = [space.sample(rng) for _ in range(BETWEEN)]
    smallest, largest = ends
    return [
        TrainingPath(architecture, (True,) * len(architecture))
        for architecture in (largest, *between, smallest)
    ]
