"""What the members of a front would reach if they were trained on their own.

A search reads accuracies with inherited weights; retrained networks in the same work directory have
the verified one. From both, `Fidelities` predicts the verified accuracy of any architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.errors import UserError
from evaluators.metric import describe_metric
from experiments.retrained import Retrained, read_retrained
from search.fidelities import Fidelities, Readings
from search.scales import scale_of
from search.trials import SearchResult
from search_space import Architecture, ChoiceSpace

LEAST = 3  # verified networks from which anything is predicted


@dataclass(frozen=True)
class Verified:
    """A predicted verified accuracy in percent: its standard error, and the 95 % interval."""

    accuracy: float
    error: float
    interval: tuple[float, float]


def predict_verified(
    result: SearchResult, space: ChoiceSpace, retrained: Path
) -> Mapping[Architecture, Verified]:
    """Return the prediction for each member of a front; empty where too little was verified.

    Only networks that were trained and measured under equal conditions count: the largest group
    of those in the folder. Both accuracies are of search-validation images.

    Args:
        retrained: The folder of the retrained networks, `Workspace.retrained`.
    """
    networks = _comparable(space, retrained)
    read = [record for record in result.trials if "accuracy" in record.metrics]
    if len(networks) < LEAST or not read or not result.front:
        return {}
    inherited = [record.metrics["accuracy"] for record in read]
    verified = [network.metrics["validation_accuracy"] for network in networks]
    scale = scale_of("accuracy", verified)
    errors = [describe_metric("accuracy").error(record.metrics) or 0.0 for record in read]
    noise = (np.array(errors) * scale.slope(np.array(inherited))) ** 2
    model = Fidelities(space).fit(
        Readings([r.architecture for r in read], list(scale.of(np.array(inherited))), list(noise)),
        Readings(
            [space.canonical(network.architecture) for network in networks],
            list(scale.of(np.array(verified))),
        ),
    )
    members = [record.architecture for record in result.front]
    mean, deviation = model.predict(members)
    return {member: _on_scale(m, d) for member, m, d in zip(members, mean, deviation)}


def _on_scale(mean: float, deviation: float) -> Verified:
    """Return a prediction of minus the log of what is missing to 100 % as an accuracy."""
    low, accuracy, high = (float(100 - np.exp(-mean - k * deviation)) for k in (-1.96, 0, 1.96))
    return Verified(accuracy, (100 - accuracy) * float(deviation), (low, high))


def _comparable(space: ChoiceSpace, retrained: Path) -> list[Retrained]:
    """Return the networks of a space in a folder, of the conditions that most of them share."""
    folders = sorted(retrained.iterdir()) if retrained.is_dir() else []
    networks = [
        network
        for network in map(read_retrained, folders)
        if network is not None and network.scale == 1 and _is_in(space, network.architecture)
    ]
    if not networks:
        return []
    most, _ = Counter(network.conditions for network in networks).most_common(1)[0]
    return [network for network in networks if network.conditions == most]


def _is_in(space: ChoiceSpace, architecture: Architecture) -> bool:
    try:
        space.validate(architecture)
    except UserError:
        return False
    return True
