"""A metric as the sum of what its layers cost, learnt from measurements: a linear model.

A latency is nearly such a sum (ProxylessNAS, https://arxiv.org/abs/1812.00332, section 3.3), and
some dozen measured architectures tell what each candidate adds in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from search.encoding import columns_of, one_hot
from search.surrogate import Numbers

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

LOG_RATIOS = (-12.0, 12.0)  # of the variance of a candidate's cost to that of the rest


class LayerSums:
    """Bayesian linear regression on the choices, its two variances by marginal likelihood.

    The prior of what a candidate costs is normal; see Bishop 2006, section 3.5.

    Attributes:
        error: The standard deviation of leave-one-out errors, in the unit of the values.
    """

    error: float

    def __init__(self, space: ChoiceSpace) -> None:
        self._columns = columns_of(space)

    def fit(self, architectures: Sequence[Architecture], values: Numbers) -> LayerSums:
        """Learn from at least one measurement, which replaces earlier ones; return the model."""
        choices = one_hot(self._columns, architectures)
        self._mean, self._centre = float(np.mean(values)), choices.mean(axis=0)
        centred, rest = choices - self._centre, np.asarray(values, dtype=float) - self._mean
        roots, vectors = np.linalg.eigh(centred.T @ centred)
        roots = np.maximum(roots, 0.0)
        projected = vectors.T @ (centred.T @ rest)
        least = 1e-12 * max(float(rest @ rest), 1e-12) + 1e-18

        def variance(ratio: float) -> float:
            unexplained = rest @ rest - (projected**2 * ratio / (1 + ratio * roots)).sum()
            return (max(float(unexplained), 0.0) + least) / len(values)

        def loss(log_ratio: float) -> float:
            ratio = float(np.exp(log_ratio))
            return float(np.log1p(ratio * roots).sum() + len(values) * np.log(variance(ratio)))

        ratio = float(np.exp(minimize_scalar(loss, bounds=LOG_RATIOS, method="bounded").x))
        self._noise = variance(ratio)
        inverse = (vectors * (ratio / (1 + ratio * roots))) @ vectors.T
        self._cost = inverse @ (centred.T @ rest)
        self._spread = inverse
        leverage = np.einsum("ij,jk,ik->i", centred, inverse, centred) + 1 / len(values)
        left_out = (rest - centred @ self._cost) / np.maximum(1 - leverage, 1e-6)
        self.error = float(np.sqrt(np.mean(left_out**2)))
        return self

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, shape (architectures,).

        The deviation holds what is no sum over layers as well.
        """
        centred = one_hot(self._columns, architectures) - self._centre
        spread = np.einsum("ij,ij->i", centred @ self._spread, centred)
        deviation = np.sqrt(self._noise * (1 + np.maximum(spread, 0.0)))
        return self._mean + centred @ self._cost, deviation

    def effect(self, layer: int, names: Sequence[str]) -> tuple[float, float]:
        """Return what some candidates add in a layer over the mean of all its candidates.

        The mean over the given ones, and its standard error. The prior draws both towards zero
        where little was measured.

        Args:
            layer: Its index.
            names: Candidates of the layer.
        """
        codes, columns = self._columns.codes[layer], self._columns.of[:, layer]
        weights = np.full(len(codes), -1 / len(codes))
        for name in names:
            weights[codes[name]] += 1 / len(names)
        contrast = np.zeros(len(self._cost))
        for of in columns:
            np.add.at(contrast, of[: len(codes)], weights)
        variance = self._noise * float(contrast @ self._spread @ contrast)
        return float(contrast @ self._cost), float(np.sqrt(max(variance, 0.0)))
