"""What a choice in a layer adds, against costs that are known."""

from __future__ import annotations

import numpy as np
import pytest
from spaces import small_space

from search.layer_sums import LayerSums
from search_space import ChoiceSpace

SPACE = small_space(candidates=("conv3", "inv3", "sk"))
NAMES = ("conv3", "inv3", "sk")
COSTS = np.random.default_rng(1).normal(0, 1, (4, 3))  # of each layer and candidate


def measured(count: int, noise: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    choices = rng.integers(3, size=(count, 4))
    values = [sum(COSTS[i, c] for i, c in enumerate(row)) for row in choices]
    return [tuple(NAMES[c] for c in row) for row in choices], values + rng.normal(0, noise, count)


def true_effect(layer: int, *names: str) -> float:
    costs = COSTS[layer]
    return float(np.mean([costs[NAMES.index(name)] for name in names]) - costs.mean())


def test_an_exact_sum_gives_its_effects_back() -> None:
    model = LayerSums(SPACE).fit(*measured(60, 0.0))
    for layer in range(4):
        for names in (["inv3"], ["conv3"], ["inv3", "sk"]):
            effect, error = model.effect(layer, names)
            assert effect == pytest.approx(true_effect(layer, *names), abs=0.01)
            assert error < 0.01


def test_effects_of_a_layers_candidates_cancel() -> None:
    model = LayerSums(SPACE).fit(*measured(15, 1.0))
    assert sum(model.effect(2, [name])[0] for name in NAMES) == pytest.approx(0, abs=1e-9)
    assert model.effect(2, list(NAMES)) == pytest.approx((0, 0), abs=1e-6)


def test_standard_errors_cover_the_truth() -> None:
    hits = []
    for seed in range(40):
        model = LayerSums(SPACE).fit(*measured(40, 1.0, seed))
        for layer in range(4):
            effect, error = model.effect(layer, ["inv3"])
            hits.append(abs(effect - true_effect(layer, "inv3")) < 2 * error)
    assert 0.88 < np.mean(hits) <= 1.0


def test_more_measurements_make_an_effect_surer_and_few_draw_it_to_zero() -> None:
    few = LayerSums(SPACE).fit(*measured(6, 2.0)).effect(0, ["inv3"])
    many = LayerSums(SPACE).fit(*measured(400, 2.0)).effect(0, ["inv3"])
    assert many[1] < few[1]


def test_layers_with_other_candidates_have_effects_of_their_own() -> None:
    space = ChoiceSpace([("a", "b"), ("b", "c", "d")])
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(50)]
    values = [(first == "b") + 3.0 * (second == "d") for first, second in drawn]
    model = LayerSums(space).fit(drawn, values)
    assert model.effect(0, ["b"])[0] == pytest.approx(0.5, abs=0.01)
    assert model.effect(1, ["d"])[0] == pytest.approx(2.0, abs=0.01)
    assert model.effect(1, ["b"])[0] == pytest.approx(-1.0, abs=0.01)
