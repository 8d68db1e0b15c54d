"""Which architectures of a search are worth training alone.

A surrogate of the inherited accuracies takes the luck out of each reading. Networks that are
verified already tell it nothing: with them, a run that goes on would choose others than before it
was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluators.metric import EVALUATED, METRICS, describe_metric
from experiments.plain_networks import PlainNetworks
from search.goal import Goal
from search.halving import Entrant
from search.problem import Features
from search.scales import scale_of
from search.surrogate import Surrogate
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, ChoiceSpace

LIKELY = 2.0  # deviations: what is expected to be farther below the best is not the best


def promising(
    space: ChoiceSpace,
    result: SearchResult,
    plain: PlainNetworks,
    *,
    reading: str,
    macs: Callable[[Architecture], float],
    features: Features | None = None,
    seed: int = 0,
) -> dict[Entrant, TrialRecord]:
    """Return who may be trained alone, with what the search knows of them.

    They are the architectures that keep the bounds and the plain networks, evaluated or not. None
    is slower (larger, ...) than the slowest evaluated one that is on the front, or may well be the
    most accurate: where readings are noisy a front of the search ends too soon, with a lucky fast
    network.

    Args:
        plain: The plain networks, of which the search may have left out some.
        reading: The metric from which the search knows how accurate a network is.
        macs: Multiply-accumulates of any architecture: what an epoch of it costs.
        features: As for `Surrogate`.
        seed: Likewise, of its fit.
    """
    goal = result.goal
    records = {r.architecture: r for r in result.trials if r.state in ("complete", "stopped")}
    tried = {record.architecture for record in result.trials}
    records |= {record.architecture: record for record in plain.untried(tried, goal)}
    mean, deviation = _predict(space, result, reading, list(records), features, seed)
    axis = cost_axis(goal)
    candidates = {
        Entrant(a, r.metrics[axis] if axis else 0.0, macs(a), m, a in plain.architectures): r
        for (a, r), m in zip(records.items(), mean.tolist())
    }
    front = {member.architecture for member in result.front}
    best = dict(zip(candidates, mean + LIKELY * deviation >= mean.max()))
    limit = max(
        entrant.cost
        for entrant, record in candidates.items()
        if entrant.architecture in front or (best[entrant] and reading in record.metrics)
    )
    return {entrant: record for entrant, record in candidates.items() if entrant.cost <= limit}


def cost_axis(goal: Goal) -> str | None:
    """Return the first objective that is a cost; None where there is none."""
    costs = (name for name, direction in goal.objectives.items() if direction == "minimize")
    return next((name for name in costs if describe_metric(name).effort < EVALUATED), None)


def _predict(
    space: ChoiceSpace,
    result: SearchResult,
    reading: str,
    architectures: list[Architecture],
    features: Features | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of how good architectures are, on the scale of the reading."""
    read = [record for record in result.trials if reading in record.metrics]
    values = [record.metrics[reading] for record in read]
    scale = scale_of(reading, values)
    model = Surrogate(space, features=features).fit(
        [record.architecture for record in read],
        scale.of(np.array(values)),
        scale.variances(reading, [record.metrics for record in read]),
        seed=seed,
    )
    mean, deviation = model.predict(architectures)
    return (mean if METRICS[reading].direction == "maximize" else -mean), deviation
