"""A Gaussian process over architectures: what a metric is likely to be, and how sure that is.

Usable on its own::

    surrogate = Surrogate(space).fit(architectures, values)
    mean, deviation = surrogate.predict(other_architectures)

The covariance of two architectures a and b is

    signal * exp(-sum over layers of weight * difference(a, b)) + linear * <features of a, of b>

`difference` is 0 for the same candidate in that layer, and otherwise 1, and more where the
operator or the width is another one too; layers that matter little get small weights (an
exponential kernel with automatic relevance determination; Rasmussen and Williams 2006, sections
4.2 and 5.1). The features enter the mean: they are multiplied by coefficients with a normal prior,
which is integrated out (their section 2.7). How often each candidate occurs is always among them,
so that a few observations already tell a good candidate from a bad one in any layer.

Weights, scales and noise are the most probable ones, given the observations and priors under which
one observation, or many equal ones, do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from search.encoding import Columns, columns_of, counts_of, one_hot
from search.problem import Features

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

Numbers = Sequence[float] | np.ndarray  # one per architecture

CONSTANT = 1.0  # prior variance of the mean, in variances of the observed values
LEAST_NOISE = 1e-6  # likewise of an observation; keeps the covariance positive definite
MOST_FITTED = 400  # observations that the hyperparameters are fitted to: their cost is cubic
RESTARTS = 2  # random starting points of a first fit, besides the mode of the prior; none later
STEPS = 60  # of the optimiser, per starting point
REACH = 4.0  # how far a logarithm may go from the mode of its prior, in deviations of the prior


class Prior(NamedTuple):
    """Independent normal priors of the logarithms of all hyperparameters."""

    mode: np.ndarray
    deviation: np.ndarray


class Inputs(NamedTuple):
    """Architectures as numbers.

    Attributes:
        choices: One-hot, shape (architectures, columns): in each layer the candidate, its operator
            and its width.
        features: Standardised, shape (architectures, features).
    """

    choices: np.ndarray
    features: np.ndarray


class Posterior(NamedTuple):
    """All that a prediction needs of the observations."""

    inputs: Inputs
    factor: np.ndarray  # lower Cholesky factor of their covariance
    weights: np.ndarray  # the inverse covariance times the standardised values
    mean: float
    scale: float


class Surrogate:
    """A Gaussian process whose inputs are architectures of a space.

    Args:
        space: The architectures; in canonical form, equal networks are equal inputs.
        features: Numbers of an architecture on which the value is likely to depend linearly, such
            as the log of its params, or a training-free score; they must be finite. They help
            while observations are few, and lose their say where the observations deny them.
    """

    def __init__(self, space: ChoiceSpace, *, features: Features | None = None) -> None:
        self._columns = columns_of(space)
        self._counted = counts_of(space, self._columns)
        self._features = features
        self._known: dict[Architecture, tuple[float, ...]] = {}
        self._shift, self._spread = np.zeros(0), np.ones(0)
        self._prior = _prior_of(self._columns, self._counted.shape[1])
        self._log: np.ndarray | None = None  # logarithms of the hyperparameters
        self._posterior: Posterior | None = None

    def fit(
        self,
        architectures: Sequence[Architecture],
        values: Numbers,
        noise: Numbers | None = None,
        *,
        seed: int = 0,
    ) -> Surrogate:
        """Learn from observations, which replace all earlier ones; return the surrogate itself.

        Args:
            architectures: At least one; repetitions are observations of their own.
            values: One per architecture.
            noise: The variance of each value where it is known. What varies besides is learnt.
            seed: Of the starting points, and of the observations that the hyperparameters are
                fitted to where there are more than `MOST_FITTED`.
        """
        raw = self._raw_features(architectures, self._choices(architectures))
        self._shift, self._spread = raw.mean(axis=0), _positive(raw.std(axis=0))
        self._prior = _prior_of(self._columns, raw.shape[1])
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(values))[:MOST_FITTED]
        inputs, scaled, variances, _, _ = self._data(
            [architectures[i] for i in some],
            np.asarray(values, dtype=float)[some],
            None if noise is None else np.asarray(noise, dtype=float)[some],
        )
        starts = [self._prior.mode, *(rng.normal(*self._prior) for _ in range(RESTARTS))]
        if self._log is not None:
            starts = [self._prior.mode, self._log]
        reach = REACH * self._prior.deviation
        bounds = list(zip(self._prior.mode - reach, self._prior.mode + reach))

        def objective(log: np.ndarray) -> tuple[float, np.ndarray]:
            loss, slope = negative_log_likelihood(log, self._columns, inputs, scaled, variances)
            distance = (log - self._prior.mode) / self._prior.deviation
            return loss + 0.5 * distance @ distance, slope + distance / self._prior.deviation

        found = [
            minimize(
                objective,
                start,
                jac=True,
                bounds=bounds,
                method="L-BFGS-B",
                options={"maxiter": STEPS},
            )
            for start in starts
        ]
        self._log = min(found, key=lambda result: result.fun).x
        return self.update(architectures, values, noise)

    def update(
        self,
        architectures: Sequence[Architecture],
        values: Numbers,
        noise: Numbers | None = None,
    ) -> Surrogate:
        """Replace the observations and keep the hyperparameters; return the surrogate itself.

        Costs one Cholesky factor. Arguments as for `fit`, which must have been called before.
        """
        if self._log is None:
            raise RuntimeError("fit the surrogate before it is updated")
        inputs, scaled, variances, mean, scale = self._data(architectures, values, noise)
        covariance = covariances(self._log, self._columns, inputs, inputs)
        covariance[np.diag_indices_from(covariance)] += variances + noise_of(self._log)
        factor = cholesky(covariance, lower=True, check_finite=False)
        weights = cho_solve((factor, True), scaled, check_finite=False)
        self._posterior = Posterior(inputs, factor, weights, mean, scale)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the value without noise, shape (architectures,).

        The cost is quadratic in the observations and linear in the architectures: thousands take
        a fraction of a second.
        """
        if self._posterior is None or self._log is None:
            raise RuntimeError("fit the surrogate before it predicts")
        known, factor, weights, mean, scale = self._posterior
        inputs = self._inputs(architectures)
        covariance = covariances(self._log, self._columns, known, inputs)
        explained = solve_triangular(factor, covariance, lower=True, check_finite=False)
        variance = variances_of(self._log, inputs) - np.einsum("ij,ij->j", explained, explained)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        return mean + scale * (weights @ covariance), scale * deviation

    def coefficients(self) -> np.ndarray:
        """Return the expected effect of each feature on the value, those asked for last.

        In units of the value per unit of the feature, shape (features,); the first are of how often
        each candidate occurs.
        """
        if self._posterior is None or self._log is None:
            raise RuntimeError("fit the surrogate before it is asked for coefficients")
        inputs, weights = self._posterior.inputs, self._posterior.weights
        linear = np.exp(self._log[-2])
        return self._posterior.scale * linear * (weights @ inputs.features) / self._spread

    def _data(
        self,
        architectures: Sequence[Architecture],
        values: Numbers,
        noise: Numbers | None,
    ) -> tuple[Inputs, np.ndarray, np.ndarray, float, float]:
        """Inputs, standardised values and variances, and the mean and scale that they had."""
        values = np.asarray(values, dtype=float)
        mean, scale = float(values.mean()), float(values.std())
        scale = scale if scale > 1e-9 * max(abs(mean), 1e-9) else 1.0
        known = np.zeros(len(values)) if noise is None else np.asarray(noise, dtype=float)
        return self._inputs(architectures), (values - mean) / scale, known / scale**2, mean, scale

    def _inputs(self, architectures: Sequence[Architecture]) -> Inputs:
        choices = self._choices(architectures)
        raw = self._raw_features(architectures, choices)
        return Inputs(choices, (raw - self._shift) / self._spread)

    def _choices(self, architectures: Sequence[Architecture]) -> np.ndarray:
        return one_hot(self._columns, architectures)

    def _raw_features(
        self, architectures: Sequence[Architecture], choices: np.ndarray
    ) -> np.ndarray:
        """How often each candidate occurs, and the features that were asked for."""
        counts = choices @ self._counted
        if self._features is None:
            return counts
        return np.hstack([counts, [self._asked(self._features, a) for a in architectures]])

    def _asked(self, features: Features, architecture: Architecture) -> tuple[float, ...]:
        if architecture not in self._known:
            self._known[architecture] = tuple(map(float, features(architecture)))
        return self._known[architecture]


def covariances(log: np.ndarray, columns: Columns, a: Inputs, b: Inputs) -> np.ndarray:
    """Return the prior covariance of standardised values without noise, shape (a, b)."""
    weights, levels, signal, linear, _ = _parts(log, columns)
    similar = _similarity(weights, levels, columns, a.choices, b.choices)
    return signal * similar + linear * (a.features @ b.features.T) + CONSTANT


def variances_of(log: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Return the diagonal of `covariances`, shape (architectures,)."""
    signal, linear, _ = np.exp(log[-3:])
    return signal + linear * np.einsum("ij,ij->i", inputs.features, inputs.features) + CONSTANT


def noise_of(log: np.ndarray) -> float:
    """Return the learnt variance of a standardised observation."""
    return float(np.exp(log[-1])) + LEAST_NOISE


def negative_log_likelihood(
    log: np.ndarray, columns: Columns, inputs: Inputs, values: np.ndarray, variances: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return minus the log marginal likelihood, and its gradient.

    Equations 5.8 and 5.9 of Rasmussen and Williams 2006. Each layer's part of the gradient is a
    sum over pairs of observations whose choices differ there: all pairs, less a product with the
    one-hot choices.

    Args:
        log: Logarithms of the hyperparameters: the weight of each layer, the further difference of
            each level but the first, signal, linear, noise.
        values: Standardised.
        variances: Those known, of each value.
    """
    weights, levels, signal, linear, noise = _parts(log, columns)
    kernel = signal * _similarity(weights, levels, columns, inputs.choices, inputs.choices)
    covariance = kernel + linear * (inputs.features @ inputs.features.T) + CONSTANT
    covariance[np.diag_indices_from(covariance)] += variances + noise + LEAST_NOISE
    factor = cholesky(covariance, lower=True, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(values)), check_finite=False)
    solved = inverse @ values
    loss = 0.5 * values @ solved + np.log(np.diag(factor)).sum()
    loss += 0.5 * len(values) * np.log(2 * np.pi)

    slope = inverse - np.outer(solved, solved)  # twice the loss's derivative by the covariance
    by_kernel = slope * kernel
    same = (inputs.choices * (by_kernel @ inputs.choices)).sum(axis=0)
    differing = np.full((len(levels), len(weights)), by_kernel.sum())
    np.subtract.at(differing, (columns.level, columns.layer), same)
    gradient = np.concatenate(
        [
            -weights * (levels @ differing),
            (-levels * (differing @ weights))[1:],
            [by_kernel.sum()],
            [linear * (inputs.features * (slope @ inputs.features)).sum()],
            [noise * np.trace(slope)],
        ]
    )
    return float(loss), 0.5 * gradient


def _similarity(
    weights: np.ndarray, levels: np.ndarray, columns: Columns, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """exp(-distance): the distance is that of two architectures that share nothing, less what
    they share."""
    scales = weights[columns.layer] * levels[columns.level]
    shared = (a * scales) @ b.T
    shared -= weights.sum() * levels.sum()
    return np.exp(shared, out=shared)


def _parts(log: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """Weights of the layers, differences of the levels, signal, linear, noise."""
    values = np.exp(log)
    weights, levels = values[: columns.layers], values[columns.layers : -3]
    signal, linear, noise = values[-3:]
    return weights, np.concatenate([[1.0], levels]), signal, linear, noise


def _prior_of(columns: Columns, features: int) -> Prior:
    """Priors for standardised values.

    Architectures that share nothing are exp(-1) alike, whatever the number of layers; the
    features explain as much as the rest, and the noise a hundredth.
    """
    layers, levels = columns.layers, columns.levels - 1
    mode = [np.log(1 / layers)] * layers + [np.log(0.5)] * levels
    mode += [0.0, np.log(1 / max(features, 1)), np.log(0.01)]
    deviation = [1.0] * (layers + levels) + [1.0, 1.5, 2.0]
    return Prior(np.array(mode), np.array(deviation))


def _positive(spread: np.ndarray) -> np.ndarray:
    return np.where(spread > 1e-12, spread, 1.0)
