"""Numbers that tell something about an architecture before anything of it is evaluated.

For the surrogate's mean (`Problem.features`): they help while evaluations are few. What they cost
decides how they are had: a count is calculated for every architecture, a score of untrained
networks for `SCORED` of them, from which a sum over the layers predicts it for the others
(docs/search.md says how well).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from search.layer_sums import LayerSums
from search.problem import Features, Known

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

SCORED = 40  # architectures whose scores are computed


def architecture_features(
    space: ChoiceSpace,
    counts: Known,
    scores: Known,
    *,
    seed: int = 0,
) -> Features:
    """Return logarithms of counts, layers that are not skipped, and predicted scores.

    Args:
        counts: Positive numbers that cost nothing, such as params.
        scores: Finite numbers that take a moment each; called for `SCORED` random architectures
            at once, and never again.
        seed: Of these.
    """
    rng = np.random.default_rng(seed)
    some = list(dict.fromkeys(space.sample(rng) for _ in range(SCORED)))
    tables = [
        _table(space, LayerSums(space).fit(some, [score(architecture) for architecture in some]))
        for score in scores.values()
    ]

    def features(architecture: Architecture) -> tuple[float, ...]:
        return (
            float(sum(not space.is_skip(name) for name in architecture)),
            *(math.log(count(architecture)) for count in counts.values()),
            *(sum(layer[name] for layer, name in zip(table, architecture)) for table in tables),
        )

    return features


def _table(space: ChoiceSpace, model: LayerSums) -> list[Mapping[str, float]]:
    """Return what each candidate adds in each layer, up to a constant: quicker than the model."""
    first = tuple(layer.candidates[0] for layer in space.layers)
    changes = [
        [(*first[:index], name, *first[index + 1 :]) for name in layer.candidates]
        for index, layer in enumerate(space.layers)
    ]
    base = model.predict([first])[0][0]
    return [
        dict(zip(layer.candidates, (model.predict(changed)[0] - base).tolist()))
        for layer, changed in zip(space.layers, changes)
    ]
