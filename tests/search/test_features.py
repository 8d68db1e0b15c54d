"""Features of an architecture: what is counted is exact, what is predicted is nearly right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from spaces import small_space

from search.features import SCORED, architecture_features
from search_space import Architecture, ChoiceSpace

SPACE = ChoiceSpace([["a", "b", "c"]] * 5)


def test_features_are_layers_logs_of_counts_and_scores() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(5, 3))
    asked: list[Architecture] = []

    def score(architecture: Architecture) -> float:
        return float(sum(weights[i]["abc".index(name)] for i, name in enumerate(architecture)))

    def counted(architecture: Architecture) -> float:
        asked.append(architecture)
        return 100 + score(architecture)

    counts = {"params": lambda architecture: 10.0 ** architecture.count("a")}
    scores = {"score": counted, "other": lambda architecture: 2.0}
    features = architecture_features(SPACE, counts, scores)
    assert len(asked) == len(set(asked)) <= SCORED
    others = [SPACE.sample(rng) for _ in range(50)]
    found = np.array([features(architecture) for architecture in others])
    assert len(asked) <= SCORED  # no further ones
    assert (found[:, 0] == 5).all()
    assert found[:, 1] == pytest.approx([math.log(10) * a.count("a") for a in others])
    assert np.corrcoef(found[:, 2], [score(a) for a in others])[0, 1] > 0.999
    assert np.ptp(found[:, 3]) < 1e-6  # a score that never varies tells nothing


def test_layers_that_are_skipped_do_not_count() -> None:
    features = architecture_features(small_space(), {}, {})
    assert features(("conv3", "skip", "sk", "skip")) == (2.0,)
