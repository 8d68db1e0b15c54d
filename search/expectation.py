"""What architectures are worth trying, in the light of what is believed of their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.acquisition import expected_improvement, probability_below
from search.beliefs import Belief
from search.front import non_dominated, reference_point
from search.layer_sums import LayerSums
from search.problem import Problem
from search.space_profile import uniform_architectures
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

MOST_FAILURES = 0.99  # the highest probability of a failure: no architecture is given up


@dataclass(frozen=True)
class Expectation:
    """Beliefs, and the front as it is believed to be once all that is pending is finished.

    Attributes:
        front: Its losses, on the scales of the beliefs, shape (points, objectives).
        parents: Its architectures; where there are none, the one nearest to keeping the bounds.
        reference: Where the hypervolume is measured from, on the same scales.
        failures: Which architectures could not be evaluated; None where all could.
    """

    problem: Problem
    beliefs: Mapping[str, Belief]
    front: np.ndarray
    parents: list[Architecture]
    reference: np.ndarray
    failures: LayerSums | None

    def worth(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return the expected growth of the hypervolume x the probability to keep all bounds.

        And x the probability that the evaluation succeeds, where some have failed. Where a bound
        on something known is exceeded it is negative: minus the excess, as a share.

        Returns:
            Shape (architectures,).
        """
        mean, deviation = losses(self.problem, self.beliefs, architectures)
        worth = expected_improvement(mean, deviation, self.front, self.reference)
        worth *= feasibility(self.problem, self.beliefs, architectures)
        if self.failures is not None:
            worth *= 1 - np.clip(self.failures.predict(architectures)[0], 0.0, MOST_FAILURES)
        excess = known_excess(self.problem, self.beliefs, architectures)
        return np.where(excess > 0, -excess, worth)


def expectation(
    problem: Problem,
    beliefs: Mapping[str, Belief],
    records: Sequence[TrialRecord],
    pending: Sequence[Architecture],
) -> Expectation:
    """Return what is expected after some records, with architectures that are being evaluated.

    The front consists of predictions, also where values were measured: a lucky measurement would
    otherwise hide what is really better. A pending architecture is in it where it is likely to
    keep the bounds. The reference lies beyond the worst of all that is feasible, because a front
    of few points would hide what lies beyond its ends; of metrics that are predicted well anywhere,
    beyond the worst of the networks with one candidate throughout, so that no end of the space is
    out of sight.
    """
    complete = [record.architecture for record in records if record.state == "complete"]
    likely = feasibility(problem, beliefs, pending) > 0.5 if pending else np.zeros(0, dtype=bool)
    likely &= known_excess(problem, beliefs, pending) <= 0
    tried = [*complete, *(a for a, keeps in zip(pending, likely) if keeps)]
    measured = tried or [record.architecture for record in records if record.metrics]
    mean, _ = losses(problem, beliefs, measured)
    kept = np.flatnonzero(non_dominated(mean))
    reference = np.maximum(reference_point(mean), _far_reference(problem, beliefs, mean))
    if not tried:
        nearest = min(records, key=lambda record: problem.goal.violation(record.metrics))
        parents, kept = [nearest.architecture], kept[:0]
    else:
        parents = [tried[index] for index in kept]
    failures = _failures(problem, records)
    return Expectation(problem, beliefs, mean[kept], parents, reference, failures)


def _far_reference(problem: Problem, beliefs: Mapping[str, Belief], mean: np.ndarray) -> np.ndarray:
    """Return the reference that the ends of the space ask for; minus infinity where none do."""
    far, _ = losses(problem, beliefs, uniform_architectures(problem.space))
    holds = [beliefs[name].holds_anywhere for name in problem.goal.objectives]
    return np.where(holds, reference_point(np.concatenate([mean, far])), -np.inf)


def _failures(problem: Problem, records: Sequence[TrialRecord]) -> LayerSums | None:
    """A linear model of which architectures fail, such as all with a certain candidate."""
    failed = [float(record.state == "failed") for record in records]
    if not any(failed):
        return None
    return LayerSums(problem.space).fit([record.architecture for record in records], failed)


def losses(
    problem: Problem, beliefs: Mapping[str, Belief], architectures: Sequence[Architecture]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of the losses, on the beliefs' scales.

    Returns:
        Two arrays of shape (architectures, objectives).
    """
    mean, deviation = [], []
    for name in problem.goal.objectives:
        middle, spread = beliefs[name].predict(architectures)
        mean.append(problem.goal.sign(name) * middle)
        deviation.append(spread)
    return np.stack(mean, axis=1), np.stack(deviation, axis=1)


def feasibility(
    problem: Problem, beliefs: Mapping[str, Belief], architectures: Sequence[Architecture]
) -> np.ndarray:
    """Return the probability that all bounds on what is not known are kept."""
    probability = np.ones(len(architectures))
    for name, bound in problem.goal.bounds.items():
        if name not in problem.known:
            level = beliefs[name].scale.of(np.array(bound))
            probability *= probability_below(*beliefs[name].predict(architectures), level)
    return probability


def known_excess(
    problem: Problem, beliefs: Mapping[str, Belief], architectures: Sequence[Architecture]
) -> np.ndarray:
    """Return by how much the bounds on what is known are exceeded, as shares of them; 0: kept."""
    excess = np.zeros(len(architectures))
    for name, bound in problem.goal.bounds.items():
        if name in problem.known:
            over = beliefs[name].predict(architectures)[0] - bound
            excess += np.maximum(over, 0.0) / (abs(bound) or 1.0)
    return excess
