"""What is believed of each metric, for any architecture, after some evaluations.

A metric is computed where it is known, predicted by `LayerSums` where it is timed, and by a
`Surrogate` otherwise, on the scale that suits it (`search/scales.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from configs.errors import UserError
from search.layer_sums import LayerSums
from search.problem import Problem
from search.scales import PLAIN, Scale, scale_of
from search.surrogate import Surrogate
from search.trials import TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

GROWTH = 1.1  # by which observations grow between two fits of a surrogate's hyperparameters
MOST_OBSERVATIONS = 2_000  # that a surrogate learns from, the latest: the cost is cubic


class Belief(Protocol):
    """What is believed of one metric.

    Attributes:
        scale: On which it is predicted.
        holds_anywhere: Whether it also predicts well what is unlike all that was evaluated.
    """

    scale: Scale
    holds_anywhere: bool

    def learn(
        self, records: Sequence[TrialRecord], pending: Sequence[Architecture], *, fit: bool
    ) -> None:
        """Take all records; believe of pending architectures what is likely.

        Args:
            fit: Whether there is time to fit hyperparameters again.
        """

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, shape (architectures,)."""


def beliefs(problem: Problem) -> dict[str, Belief]:
    """Return a belief for each metric of a goal, by name."""
    from evaluators.metric import TIMED, describe_metric  # loads torch

    def belief(name: str) -> Belief:
        if name in problem.known:
            return Computed(name, problem.known[name])
        if describe_metric(name).effort == TIMED:
            return Timed(name, problem)
        return Modelled(name, problem)

    return {name: belief(name) for name in problem.goal.metrics}


class Computed:
    """A metric that is an exact function of the architecture; computed once for each."""

    scale = PLAIN
    holds_anywhere = True

    def __init__(self, name: str, function: Callable[[Architecture], float]) -> None:
        self._name, self._function = name, function
        self._values: dict[Architecture, float] = {}

    def learn(
        self, records: Sequence[TrialRecord], pending: Sequence[Architecture], *, fit: bool
    ) -> None:
        """Learn nothing: it is known."""

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return values, and zeros.

        Raises:
            UserError: The function fails, or a value is not finite.
        """
        values = [self._value(architecture) for architecture in architectures]
        return np.array(values), np.zeros(len(values))

    def _value(self, architecture: Architecture) -> float:
        if architecture not in self._values:
            what = f"known.{self._name}: of {'/'.join(architecture)}"
            try:
                value = float(self._function(architecture))
            except Exception as error:
                raise UserError(f"{what}: {type(error).__name__}: {error}") from error
            if not math.isfinite(value):
                raise UserError(f"{what} it is {value}; a finite number is needed")
            self._values[architecture] = value
        return self._values[architecture]


class Timed:
    """A metric that is measured on a device: nearly a sum over the layers."""

    scale = PLAIN
    holds_anywhere = True

    def __init__(self, name: str, problem: Problem) -> None:
        self._name, self._sums = name, LayerSums(problem.space)

    def learn(
        self, records: Sequence[TrialRecord], pending: Sequence[Architecture], *, fit: bool
    ) -> None:
        """Fit the sums; what is pending does not change a mean."""
        measured = [record for record in records if self._name in record.metrics]
        values = [record.metrics[self._name] for record in measured]
        self._sums.fit([record.architecture for record in measured], values)

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, shape (architectures,)."""
        return self._sums.predict(architectures)


class Modelled:
    """Any other metric."""

    scale = PLAIN
    holds_anywhere = False

    def __init__(self, name: str, problem: Problem) -> None:
        self._name = name
        self._bounds = [bound for of, bound in problem.goal.bounds.items() if of == name]
        self._surrogate = Surrogate(problem.space, features=problem.features)
        self._fitted = 0

    def learn(
        self, records: Sequence[TrialRecord], pending: Sequence[Architecture], *, fit: bool
    ) -> None:
        """Fit the surrogate again, or only tell it the values while few are new."""
        records = [r for r in records if self._name in r.metrics][-MOST_OBSERVATIONS:]
        architectures = [record.architecture for record in records]
        metrics = [record.metrics for record in records]
        raw = [values[self._name] for values in metrics]
        self.scale = scale_of(self._name, raw, self._bounds)
        values = self.scale.of(np.array(raw))
        noise = self.scale.variances(self._name, metrics)
        if self._fitted == 0 or (fit and len(records) >= GROWTH * self._fitted):
            self._surrogate.fit(architectures, values, noise)
            self._fitted = len(records)
        else:
            self._surrogate.update(architectures, values, noise)
        if pending:  # the "kriging believer" (Ginsbourger, Le Riche and Carraro 2010)
            believed, _ = self._surrogate.predict(pending)
            self._surrogate.update(
                [*architectures, *pending],
                np.append(values, believed),
                np.append(noise, np.zeros(len(pending))),
            )

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation on the scale, shape (architectures,)."""
        return self._surrogate.predict(architectures)
