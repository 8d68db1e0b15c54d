"""On which scale a metric is modelled: where equal steps are equally hard, and noise is even."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_GAP = 1e-4  # to a ceiling, as a share of it: nothing is modelled nearer


@dataclass(frozen=True)
class Scale:
    """An increasing function of a metric's values, and its slope, which carries errors over."""

    of: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]

    def variances(self, name: str, metrics: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the variance on this scale of each value of a metric; 0 where it is not known.

        By the delta method, from the standard error that the metric's registration gives.
        """
        from evaluators.metric import describe_metric  # loads torch

        error = describe_metric(name).error
        errors = np.array([error(values) or 0.0 for values in metrics])
        return (errors * self.slope(np.array([values[name] for values in metrics]))) ** 2


PLAIN = Scale(lambda values: values, np.ones_like)
LOGARITHM = Scale(np.log, np.reciprocal)  # what doubles a cost is alike everywhere


def below(ceiling: float) -> Scale:
    """Return minus the logarithm of what is missing to a ceiling: of the error, for accuracies."""

    def gap(values: np.ndarray) -> np.ndarray:
        return np.maximum(ceiling - values, LEAST_GAP * abs(ceiling))

    return Scale(lambda values: -np.log(gap(values)), lambda values: 1 / gap(values))


def scale_of(name: str, values: Sequence[float], bounds: Sequence[float] = ()) -> Scale:
    """Return the scale of a metric, given the values so far and bounds that must be on it, too.

    It is that of its ceiling where the metric has one, and logarithmic where all are positive.
    """
    from evaluators.metric import describe_metric  # loads torch

    ceiling = describe_metric(name).ceiling
    if ceiling is not None:
        return below(ceiling)
    return LOGARITHM if min(*values, *bounds, np.inf) > 0 else PLAIN
