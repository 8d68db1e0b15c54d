"""What is said of a predictor: against scipy, against all cases, and by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from search.ranking import (
    GROUPED,
    LATENCY,
    TOPS,
    Ranked,
    kendall_tau_with_interval,
    latency_groups,
    rank_networks,
    regret_at,
)

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25)


@given(pairs=PAIRS)
@settings(max_examples=60, deadline=None)
def test_tau_is_that_of_scipy_ties_included(pairs) -> None:
    predicted, truth = zip(*pairs)
    tau, (low, high) = kendall_tau_with_interval(predicted, truth, draws=20)
    assert tau == pytest.approx(kendalltau(predicted, truth).statistic, nan_ok=True)
    assert math.isnan(tau) or -1 <= low <= high <= 1


def test_the_interval_is_of_networks_drawn_again() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=30)
    predicted = truth + rng.normal(size=30)
    _, interval = kendall_tau_with_interval(predicted, truth, draws=200, seed=5)
    counts = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=200)
    samples = [np.repeat(np.arange(30), times) for times in counts]
    taus = [kendalltau(predicted[s], truth[s]).statistic for s in samples]
    assert interval == pytest.approx(np.percentile(taus, (2.5, 97.5)))


def test_the_interval_holds_the_tau_of_all_networks_nineteen_times_in_twenty() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):  # normal pairs of correlation r have the tau 2 asin(r) / pi
        a, b = rng.multivariate_normal((0, 0), ((1, 0.7), (0.7, 1)), size=40).T
        low, high = kendall_tau_with_interval(a, b, draws=200)[1]
        held += low <= 2 * math.asin(0.7) / math.pi <= high
    assert 0.88 <= held / 200 <= 0.99


def test_no_order_has_no_tau() -> None:
    tau, interval = kendall_tau_with_interval([1, 1, 1], [1, 2, 3])
    assert math.isnan(tau) and all(map(math.isnan, interval))
    assert kendall_tau_with_interval([1, 2, 3, 4], [5, 6, 7, 8]) == (1.0, (1.0, 1.0))


def test_the_regret_by_hand() -> None:
    truth = np.array([70.0, 72.0, 75.0, 80.0, 81.0, 85.0])
    groups = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    assert regret_at(truth, truth, groups, 1) == 0
    # the worst of each group on top: 5 points in each; then the second: 3 and 4
    assert regret_at(-truth, truth, groups, 1) == pytest.approx((5 + 5) / 2)
    assert regret_at(-truth, truth, groups, 2) == pytest.approx((3 + 4) / 2)
    assert math.isnan(regret_at(truth, truth, groups, 3))
    # all predicted equal: any of three, on average
    assert regret_at(np.zeros(6), truth, groups, 1) == pytest.approx((5 + 3 + 0 + 5 + 4 + 0) / 6)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=3, max_size=8),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_ties_are_broken_in_every_way(pairs, data) -> None:
    predicted, truth = map(np.array, zip(*pairs))
    k = data.draw(st.integers(1, len(pairs) - 1))
    tops = [
        top
        for top in map(list, itertools.combinations(range(len(pairs)), k))
        if min(predicted[top]) >= max(np.delete(predicted, top))
    ]
    expected = truth.max() - np.mean([truth[top].max() for top in tops])
    assert regret_at(predicted, truth, [np.arange(len(pairs))], k) == pytest.approx(expected)


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=120))
@settings(max_examples=40, deadline=None)
def test_groups_are_of_neighbours_in_latency(latencies) -> None:
    groups = latency_groups(latencies)
    assert sorted(np.concatenate(groups)) == list(range(len(latencies)))
    values = np.array(latencies)
    for faster, slower in itertools.pairwise(groups):
        assert values[faster].max() <= values[slower].min()
        assert min(len(faster), len(slower)) >= GROUPED
    assert len(groups) == max(len(latencies) // GROUPED, 1)


def ranked(number: int, accuracies: tuple[float, ...], **scores: float) -> Ranked:
    return Ranked(("a", str(number)), False, {LATENCY: float(number), **scores}, accuracies)


def test_predictors_are_compared_with_the_mean_and_the_ceiling_with_the_first_seed() -> None:
    rng = np.random.default_rng(1)
    networks = []
    for number in range(40):
        good = rng.normal()
        accuracies = tuple(80 + 5 * good + rng.normal(size=2))
        networks.append(ranked(number, accuracies, near=good + 0.3 * rng.normal(),
                               far=-good, flat=3.0))  # fmt: skip
    ranking = rank_networks(networks, [7, 8], 500, ["something"])
    first, *_, last = ranking.predictors
    assert (first, last) == ("near", "flat")
    truth = [network.truth for network in networks]
    for name, judged in ranking.predictors.items():
        values = [network.scores[name] for network in networks]
        assert judged.tau == pytest.approx(kendalltau(values, truth).statistic, nan_ok=True)
        assert judged.regrets.keys() == set(TOPS)
        assert judged.regrets[1] >= judged.regrets[5] >= judged.regrets[10] >= 0
    first, second = zip(*(network.accuracies for network in networks))
    assert ranking.ceiling is not None and ranking.groups == 3
    assert ranking.ceiling.tau == pytest.approx(kendalltau(second, first).statistic)
    text = json.dumps(ranking.to_dict(), allow_nan=False)
    assert json.loads(text)["predictors"]["flat"]["tau"] is None


def test_one_seed_has_no_ceiling_and_a_small_group_no_top_ten() -> None:
    networks = [ranked(number, (float(number),)) for number in range(6)]
    ranking = rank_networks(networks, [0], 500)
    assert ranking.ceiling is None and ranking.groups == 1
    regrets = ranking.predictors[LATENCY].regrets
    assert regrets[1] == regrets[5] == 0 and math.isnan(regrets[10])
