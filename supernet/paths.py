"""Which paths a training step takes: pure functions of the seed and the step.

Every process of a distributed run and every resumed run therefore draws the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search_space.space import Architecture, ChoiceSpace


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
    """Return paths in which every candidate of every layer learns exactly once.

    There are as many paths as the longest candidate list is long, each layer in an order of its
    own (FairNAS, https://arxiv.org/abs/1907.01845). A layer with fewer candidates repeats some;
    on a repeat the candidate doesn't learn, so that the count stays one.
    """
    rng = np.random.default_rng((seed, step))
    count = max(len(layer.candidates) for layer in space.layers)
    columns = []
    for layer in space.layers:
        order = [str(name) for name in rng.permutation(layer.candidates)]
        repeats = rng.choice(layer.candidates, count - len(order))
        column = [(name, True) for name in order] + [(str(name), False) for name in repeats]
        columns.append([column[i] for i in rng.permutation(count)])
    return [TrainingPath(*zip(*choices)) for choices in zip(*columns)]


PATHS = {"uniform": uniform_paths, "fair": fair_paths}
