"""On which scale a metric is modelled: where equal steps are equally hard, and noise is even."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.metrics import describe_metric

LEAST_GAP = 1e-4  # to a ceiling, as a share of it, where no error is known


@dataclass(frozen=True)
class Scale:
    """An increasing function of a metric's values, and the derivative that carries errors over."""

    of: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def plain_scale() -> Scale:
    """The values as they are."""
    return Scale(lambda values: values, np.ones_like)


def log_scale() -> Scale:
    """Logarithms, of positive values: what doubles a cost is alike everywhere."""
    return Scale(lambda values: np.log(np.maximum(values, 1e-300)), lambda values: 1 / values)


def ceiling_scale(ceiling: float) -> Scale:
    """Minus the logarithm of what is missing to a ceiling: of the error, for an accuracy."""

    def gap(values: np.ndarray) -> np.ndarray:
        return np.maximum(ceiling - values, LEAST_GAP * abs(ceiling))

    return Scale(lambda values: -np.log(gap(values)), lambda values: 1 / gap(values))


def scale_of(name: str, values: Sequence[float]) -> Scale:
    """Return the scale of a metric: by its ceiling, or logarithmic where all values are positive."""
    ceiling = describe_metric(name).ceiling
    if ceiling is not None:
        return ceiling_scale(ceiling)
    return log_scale() if min(values) > 0 else plain_scale()


def variances(name: str, scale: Scale, records: Sequence[Mapping[str, float]]) -> list[float]:
    """Return the variance of each record's value on a scale (delta method); 0 where not known."""
    metric = describe_metric(name)
    errors = np.array([metric.error(metrics) or 0.0 for metrics in records])
    values = np.array([metrics[name] for metrics in records])
    return list((errors * scale.slope(values)) ** 2)
