"""Verified values predicted from inherited ones: on landscapes where the truth is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from search.fidelities import Fidelities, Readings
from search.surrogate import Surrogate
from search_space import Architecture, ChoiceSpace

SPACE = ChoiceSpace([["a", "b", "c"]] * 6)


def landscape(seed: int) -> dict[Architecture, float]:
    """A value for each of 729 architectures: of single candidates, and of pairs of neighbours."""
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(size=(6, 3)), rng.normal(size=(5, 3, 3))
    values = {}
    for numbers in np.ndindex(*[3] * 6):
        value = sum(single[i, n] for i, n in enumerate(numbers))
        value += sum(pair[i, a, b] for i, (a, b) in enumerate(pairwise(numbers)))
        values[tuple("abc"[n] for n in numbers)] = float(value)
    return values


def errors(seed: int, bias: float, noise: float) -> dict[str, np.ndarray]:
    """Errors of three predictions of the truth, and what the model says of its own."""
    rng = np.random.default_rng(seed)
    truth, other = landscape(seed), landscape(seed + 1000)
    every = [*truth]
    read = [every[i] for i in rng.permutation(len(every))[:200]]
    checked = read[:15]
    low = [50 + 4 * (truth[a] + bias * other[a] + noise * rng.normal()) for a in read]
    high = [truth[a] for a in checked]
    expected = np.array([truth[a] for a in every])
    mean, deviation = (
        Fidelities(SPACE).fit(Readings(read, low), Readings(checked, high)).predict(every)
    )
    alone, _ = Surrogate(SPACE).fit(checked, high).predict(every)
    return {"both": mean - expected, "alone": alone - expected, "deviation": deviation}


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_inherited_values_in_another_unit_tell_what_a_few_verified_ones_cannot() -> None:
    found = [errors(seed, bias=0.0, noise=0.3) for seed in range(3)]
    assert all(rms(f["both"]) < 0.5 * rms(f["alone"]) for f in found)


def test_a_bias_that_depends_on_the_architecture_is_no_worse_than_no_inherited_values() -> None:
    found = [errors(seed, bias=1.0, noise=0.3) for seed in range(4)]
    assert np.mean([rms(f["both"]) / rms(f["alone"]) for f in found]) < 0.95
    lies = [errors(seed, bias=100.0, noise=0.3) for seed in range(4)]  # nothing of the truth
    assert np.mean([rms(f["both"]) / rms(f["alone"]) for f in lies]) < 1.15


def test_the_deviation_is_that_of_the_errors() -> None:
    found = [errors(seed, bias=0.5, noise=0.5) for seed in range(6)]
    within = [np.mean(np.abs(f["both"]) < 2 * f["deviation"]) for f in found]
    assert 0.8 < np.mean(within) <= 1.0
    assert np.mean([rms(f["both"] / f["deviation"]) for f in found]) == pytest.approx(1.2, abs=0.5)


def test_what_is_unknown_of_the_inherited_value_is_unknown_of_the_verified_one() -> None:
    truth = landscape(0)
    every = [*truth]
    checked = every[::50]
    few = Readings(checked, [truth[a] for a in checked])
    many = Readings(every, [truth[a] for a in every])
    unsure = Fidelities(SPACE).fit(few, few).predict(every)[1]
    sure = Fidelities(SPACE).fit(many, few).predict(every)[1]
    assert unsure.mean() > 3 * sure.mean()


def test_what_was_verified_is_known_as_well_as_it_was_measured() -> None:
    truth = landscape(0)
    read, checked = [*truth][::3], [*truth][::60]
    low = Readings(read, [truth[a] for a in read])
    exact = Readings(checked, [truth[a] for a in checked], [1e-6] * len(checked))
    mean, deviation = Fidelities(SPACE).fit(low, exact).predict(checked)
    assert mean == pytest.approx(np.array(exact.values), abs=0.5)
    vague = Readings(checked, exact.values, [100.0] * len(checked))
    assert Fidelities(SPACE).fit(low, vague).predict(checked)[1].mean() > 3 * deviation.mean()


def test_one_reading_of_each_is_enough_and_the_same_readings_give_the_same_prediction() -> None:
    one, every = ("a",) * 6, [*landscape(0)][:50]
    model = Fidelities(SPACE, features=lambda architecture: (architecture.count("b"),))
    mean, deviation = model.fit(Readings([one], [70.0]), Readings([one], [90.0])).predict(every)
    assert np.isfinite(mean).all() and (deviation > 0).all()
    assert mean[0] == pytest.approx(90.0, abs=0.5)
    again, _ = model.fit(Readings([one], [70.0]), Readings([one], [90.0])).predict(every)
    assert (mean == again).all()


def test_a_coefficient_is_the_effect_of_its_feature() -> None:
    rng = np.random.default_rng(0)
    every = [*landscape(0)]
    scores = dict(zip(every, rng.normal(size=len(every)) * 7))
    known = every[::6]
    values = [3 + 0.25 * scores[a] for a in known]
    model = Surrogate(SPACE, features=lambda a: (scores[a],)).fit(known, values)
    assert model.coefficients()[-1] == pytest.approx(0.25, rel=0.05)
    assert len(model.coefficients()) == 3 + 1  # how often each candidate occurs comes first
