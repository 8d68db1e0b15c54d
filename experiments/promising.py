"""Which architectures of a search are worth training alone.

A surrogate of the inherited accuracies takes the luck out of each reading. Networks that are
verified already tell it nothing: with them, a run that goes on would choose others than before it
was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from evaluators.metrics import EVALUATED, describe_metric
from experiments.plain_networks import PlainNetworks
from search.goal import Goal
from search.halving import Entrant
from search.problem import Features
from search.scales import scale_of
from search.surrogate import Surrogate
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, ChoiceSpace

ACCURACY = "accuracy"


def promising(
    space: ChoiceSpace,
    result: SearchResult,
    plain: PlainNetworks,
    *,
    macs: Callable[[Architecture], float],
    features: Features | None = None,
    seed: int = 0,
) -> dict[Entrant, TrialRecord]:
    """Return who may be trained alone, with what the search knows of them.

    They are the architectures that keep the bounds and the plain networks, evaluated or not. None
    is slower (larger, ...) than the slowest member of the front: of that of the search, or of the
    front of what a surrogate predicts.

    Args:
        plain: The plain networks, of which the search may have left out some.
        macs: Multiply-accumulates of any architecture: what an epoch of it costs.
        features: As for `Surrogate`.
        seed: Likewise, of its fit.
    """
    goal = result.goal
    records = {r.architecture: r for r in result.trials if r.state in ("complete", "stopped")}
    tried = {record.architecture for record in result.trials}
    records |= {record.architecture: record for record in plain.untried(tried, goal)}
    promise = _promise(space, result, list(records), features, seed)
    axis = cost_axis(goal)
    cost = {a: record.metrics[axis] if axis else 0.0 for a, record in records.items()}
    front = [member.architecture for member in result.front]
    limit = max(cost[a] for a in [*front, *_predicted_front(goal, records, promise)])
    return {
        Entrant(a, cost[a], macs(a), promise[a], a in plain.architectures): record
        for a, record in records.items()
        if cost[a] <= limit
    }


def cost_axis(goal: Goal) -> str | None:
    """Return the first objective that is a cost; None where there is none."""
    costs = (name for name, direction in goal.objectives.items() if direction == "minimize")
    return next((name for name in costs if describe_metric(name).effort < EVALUATED), None)


def _promise(
    space: ChoiceSpace,
    result: SearchResult,
    architectures: list[Architecture],
    features: Features | None,
    seed: int,
) -> dict[Architecture, float]:
    """Return the accuracy that a surrogate of the trials expects, on the scale of its model."""
    read = [record for record in result.trials if ACCURACY in record.metrics]
    values = [record.metrics[ACCURACY] for record in read]
    scale = scale_of(ACCURACY, values)
    model = Surrogate(space, features=features).fit(
        [record.architecture for record in read],
        scale.of(np.array(values)),
        scale.variances(ACCURACY, [record.metrics for record in read]),
        seed=seed,
    )
    return dict(zip(architectures, model.predict(architectures)[0].tolist()))


def _predicted_front(
    goal: Goal, records: Mapping[Architecture, TrialRecord], promise: Mapping[Architecture, float]
) -> list[Architecture]:
    others = [name for name in goal.objectives if name != ACCURACY]
    predicted = [
        TrialRecord(
            0, architecture, {**record.metrics, ACCURACY: promise[architecture]}, "complete"
        )
        for architecture, record in records.items()
        if all(name in record.metrics for name in others)
    ]
    return [member.architecture for member in goal.front(predicted)]
