"""Two kinds of readings of one metric: many that are biased and noisy, and a few that are right.

An accuracy with inherited weights orders architectures only roughly; that of a network trained on
its own is right, and costs an hour. `Fidelities` learns from both and predicts the latter::

    model = Fidelities(space).fit(Readings(searched, inherited), Readings(retrained, verified))
    mean, deviation = model.predict(architectures)

It is recursive co-kriging (Le Gratiet and Garnier 2014, https://arxiv.org/abs/1210.0686), a form of
the auto-regressive model of Kennedy and O'Hagan 2000: verified = ratio * inherited + discrepancy,
both terms Gaussian processes. The first is a `Surrogate` of the inherited values, which takes their
noise away; the second one of the verified values, of which the first one's mean is a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from search.problem import Features
from search.surrogate import Surrogate

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace


class Readings(NamedTuple):
    """Values of architectures; `noise` are their variances, where they are known."""

    architectures: Sequence[Architecture]
    values: Sequence[float]
    noise: Sequence[float] | None = None


class Fidelities:
    """Predicts the verified value of any architecture from inherited and verified readings.

    Args:
        space: The architectures.
        features: As for `Surrogate`.
    """

    def __init__(self, space: ChoiceSpace, *, features: Features | None = None) -> None:
        self._space, self._features = space, features
        self._means: dict[Architecture, float] = {}  # predicted inherited values

    def fit(self, inherited: Readings, verified: Readings, *, seed: int = 0) -> Fidelities:
        """Learn from readings, which replace all earlier ones; return the model itself.

        The two may be of different architectures, in different units: only the order of the
        inherited values and their distances matter.

        Args:
            inherited: At least one.
            verified: At least one; with fewer than about five, the deviations are guesses.
            seed: As for `Surrogate.fit`.
        """
        self._inherited = Surrogate(self._space, features=self._features)
        self._inherited.fit(*inherited, seed=seed)
        self._means = {}
        self._verified = Surrogate(self._space, features=self._with_inherited)
        self._predict_inherited(verified.architectures)
        self._verified.fit(*verified, seed=seed)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the verified value, shape (architectures,)."""
        uncertain = self._predict_inherited(architectures)
        mean, deviation = self._verified.predict(architectures)
        ratio = self._verified.coefficients()[-1]
        return mean, np.hypot(deviation, ratio * uncertain)

    def _predict_inherited(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Keep the means of inherited values, and return their standard deviations."""
        mean, deviation = self._inherited.predict(architectures)
        self._means.update(zip(architectures, map(float, mean)))
        return deviation

    def _with_inherited(self, architecture: Architecture) -> tuple[float, ...]:
        others = self._features(architecture) if self._features else ()
        return (*others, self._means[architecture])
