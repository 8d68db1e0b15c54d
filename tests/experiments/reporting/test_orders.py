"""How the orders of networks are compared: what was known early, and what they came to."""

from __future__ import annotations

import math

import pytest
from scipy.stats import kendalltau

from experiments.reporting.baselines import Trained
from experiments.reporting.orders import retrained_orders, verified_orders
from search.trials import TrialRecord
from search_space import SearchSpace

SPACE = SearchSpace.from_yaml("quickstart")
NETWORKS = [  # verified accuracy, inherited cross entropy, macs, layers that are skipped
    (60.0, 1.9, 100.0, 0),
    (70.0, 1.5, 300.0, 0),
    (65.0, 1.6, 200.0, 1),
    (50.0, 1.7, 400.0, 2),
]


def record(number: int) -> TrialRecord:
    accuracy, loss, macs, skipped = NETWORKS[number]
    used = len(SPACE.layers) - skipped
    architecture = (*["conv3"] * (used - number % 2), *["dw5"] * (number % 2), *["skip"] * skipped)
    metrics = {"accuracy": accuracy, "inherited_cross_entropy": loss, "macs": macs,
               "params": 10.0 * macs}  # fmt: skip
    return TrialRecord(number, architecture, metrics, "complete")


def retrained(number: int, test: float, params: float | None = None) -> Trained:
    found = record(number)
    return Trained(
        name=str(number),
        kind="front",
        plain=False,
        test={0: test - 1, 1: test + 1},
        validation={0: test, 1: test},
        latency_ms=1.0,
        params=params or found.metrics["params"],
        macs=1.0,
        architecture=found.architecture,
    )


def test_what_predicts_the_verified_order_is_judged_with_its_direction() -> None:
    orders = {o.predictor: o for o in verified_orders([record(i) for i in range(4)], SPACE)}
    accuracy, loss, macs, skipped = zip(*NETWORKS)
    expected = {
        "inherited cross entropy": [-value for value in loss],
        "MACs": macs,
        "number of layers": [-value for value in skipped],
    }
    for name, values in expected.items():
        assert orders[name].tau == pytest.approx(kendalltau(values, accuracy).statistic), name
        assert orders[name].interval[0] <= orders[name].tau <= orders[name].interval[1]
    taus = [order.tau for order in orders.values()]
    assert taus == sorted(taus, reverse=True)


def test_retrained_networks_are_matched_by_architecture_and_width() -> None:
    verified = [record(number) for number in range(4)]
    networks = [retrained(0, 80), retrained(1, 85), retrained(2, 81), retrained(3, 10, params=7)]
    count, orders = retrained_orders(networks, verified, SPACE)
    assert count == 3  # the fourth is the architecture in another width
    assert next(o for o in orders if o.predictor == "verified accuracy").tau == 1
    assert retrained_orders(networks[:2], verified, SPACE) == (2, [])


def test_equal_values_order_nothing() -> None:
    verified = [record(0), record(0), record(0)]
    (first, *_) = verified_orders(verified, SPACE)
    assert math.isnan(first.tau) and str(first) == "undefined"
