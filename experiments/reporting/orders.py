"""How far numbers that are known early order networks as their training does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.metric import EVALUATED, METRICS, describe_metric, metrics_among
from experiments.reporting.baselines import Trained
from search.ranking import kendall_tau_with_interval
from search.trials import INHERITED, TrialRecord
from search_space import ChoiceSpace

READ = ("accuracy", "cross_entropy")  # of networks that were trained alone
LEAST = 3  # networks: fewer have no order to speak of


@dataclass(frozen=True)
class Order:
    """What orders networks, and Kendall's tau with what they reach, with its 95 % interval.

    NaN where the order is none, because all are equal.
    """

    predictor: str
    tau: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        """Return the tau as people write it."""
        return "undefined" if math.isnan(self.tau) else f"{self.tau:.2f}"


def verified_orders(networks: Sequence[TrialRecord], space: ChoiceSpace) -> list[Order]:
    """Return how well inherited readings, depth and costs order networks that were trained alone.

    Args:
        networks: As reported of those that were trained to the end (`read_verified`).

    Returns:
        The highest tau first; empty for fewer than three networks.
    """
    return _orders([n.metrics["accuracy"] for n in networks], networks, space, [])


def retrained_orders(
    networks: Sequence[Trained], verified: Sequence[TrialRecord], space: ChoiceSpace
) -> tuple[int, list[Order]]:
    """Return how well what the search reported orders networks that were retrained since.

    Args:
        verified: As for `verified_orders`.

    Returns:
        How many networks are in both, and as for `verified_orders`; the truth is the mean test
        accuracy.
    """
    # a baseline may have the architecture in another width
    means = {(network.architecture, network.params): network.mean for network in networks}
    found = [(means.get((r.architecture, r.metrics.get("params", 0.0))), r) for r in verified]
    truth = [mean for mean, _ in found if mean is not None]
    records = [record for mean, record in found if mean is not None]
    return len(records), _orders(truth, records, space, READ)


def agreement(networks: Sequence[TrialRecord], space: ChoiceSpace) -> str:
    """Return `verified_orders` as a sentence; empty for fewer than three networks."""
    orders = verified_orders(networks, space)
    if not orders:
        return ""
    taus = ", ".join(f"{order.predictor} {order}" for order in orders)
    return (
        f"Order of the {len(networks)} networks that were trained to the end, Kendall's tau with "
        f"the verified accuracy: {taus}."
    )


def interval_text(interval: tuple[float, float]) -> str:
    """Return the ends of an interval as people write them."""
    low, high = interval
    return f"{low:.2f} to {high:.2f}" if math.isfinite(low) else "–"


def _orders(
    truth: Sequence[float], records: Sequence[TrialRecord], space: ChoiceSpace, read: Sequence[str]
) -> list[Order]:
    """Judge by the truth the metrics of `read`, inherited ones, the depth and all costs."""
    if len(records) < LEAST:
        return []
    names = [*read, *(f"{INHERITED}{name}" for name in METRICS)]
    found = metrics_among(name for record in records for name in record.metrics)
    names += [metric.name for metric in found if metric.effort < EVALUATED]
    verified = any(name.startswith(INHERITED) for record in records for name in record.metrics)
    scores = {
        _label(name, verified): [_sign(name) * record.metrics[name] for record in records]
        for name in names
        if all(name in record.metrics for record in records)
    }
    scores["number of layers"] = [
        float(sum(not space.is_skip(name) for name in record.architecture)) for record in records
    ]
    orders = [Order(name, *kendall_tau_with_interval(s, truth)) for name, s in scores.items()]
    return sorted(orders, key=lambda order: -order.tau if math.isfinite(order.tau) else 2.0)


def _label(name: str, verified: bool) -> str:
    metric = describe_metric(name.removeprefix(INHERITED))
    if metric.effort < EVALUATED:
        return metric.label
    inherited = name.startswith(INHERITED) or not verified
    return f"{'inherited' if inherited else 'verified'} {metric.label}"


def _sign(name: str) -> float:
    """What is read is good as it says; of costs the larger network is expected to be better."""
    metric = describe_metric(name.removeprefix(INHERITED))
    return -1.0 if metric.effort >= EVALUATED and metric.direction == "minimize" else 1.0
