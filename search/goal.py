"""What a search is for: objectives and bounds as one value, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from configs.errors import UserError
from search.front import non_dominated
from search.trials import State, TrialRecord

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Goal:
    """All objectives and bounds of a search.

    Args:
        objectives: Metric name to ``"maximize"`` or ``"minimize"``, in the order in which values
            are written.
        bounds: Metric name to the largest value that is allowed.

    Raises:
        UserError: There is no objective, a direction or a bound makes no sense, or a registered
            metric is wanted in the wrong direction.
    """

    objectives: Mapping[str, Direction]
    bounds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", dict(self.objectives))
        object.__setattr__(self, "bounds", dict(self.bounds))
        if not self.objectives:
            raise UserError("objectives: at least one metric is needed")
        for name, direction in self.objectives.items():
            _check_direction(name, direction)
        for name, bound in self.bounds.items():
            _check_bound(name, bound)

    def __hash__(self) -> int:
        return hash((tuple(self.objectives.items()), tuple(self.bounds.items())))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that a complete evaluation has, objectives first."""
        return list(dict.fromkeys([*self.objectives, *self.bounds]))

    def bounded_by(self, names: Collection[str]) -> Goal:
        """Return the same goal with the bounds on some metrics only."""
        kept = {name: bound for name, bound in self.bounds.items() if name in names}
        return Goal(self.objectives, kept)

    def losses(self, metrics: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return metrics as losses: what is maximised gets a minus sign.

        Returns:
            Shape (points, objectives); every column is to be minimised.
        """
        signs = [self.sign(name) for name in self.objectives]
        rows = [[sign * m[name] for sign, name in zip(signs, self.objectives)] for m in metrics]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.objectives))

    def sign(self, name: str) -> float:
        """Return what turns an objective into a loss: 1 or -1."""
        return -1.0 if self.objectives[name] == "maximize" else 1.0

    def best(self, name: str, values: Sequence[float]) -> float:
        """Return the best of some values of an objective."""
        return max(values) if self.objectives[name] == "maximize" else min(values)

    def excesses(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return how far each metric that is there exceeds its bound, as a share of the bound.

        Below zero it keeps it. A share, because samplers add them up: 0.1 ms must not vanish beside
        100,000 parameters.
        """
        return {
            name: (metrics[name] - bound) / (abs(bound) or 1.0)
            for name, bound in self.bounds.items()
            if name in metrics
        }

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return the sum of all excesses above zero; 0 where every known bound is kept."""
        return sum(max(excess, 0.0) for excess in self.excesses(metrics).values())

    def exceeded(self, metrics: Mapping[str, float]) -> bool:
        """Return whether a metric that is there exceeds its bound."""
        return self.violation(metrics) > 0

    def judge(self, metrics: Mapping[str, float | None]) -> tuple[State, str]:
        """Return what the metrics of an evaluation amount to, and a message unless `complete`.

        Every returned metric must be a finite number. A bound that is exceeded makes the trial
        infeasible, and metrics that were not measured do not matter then; otherwise each objective
        and each bounded metric must be there.
        """
        finite: dict[str, float] = {}
        for name, value in metrics.items():
            if value is None or not math.isfinite(value):
                return "failed", f"metric {name!r} is {value}; a finite number is needed"
            finite[name] = value
        exceeded = [name for name, excess in self.excesses(finite).items() if excess > 0]
        if exceeded:
            texts = [f"{name} {finite[name]:.6g} > {self.bounds[name]:.6g}" for name in exceeded]
            return "infeasible", ", ".join(texts)
        missing = [name for name in self.metrics if name not in finite]
        if missing:
            given = ", ".join(finite) or "nothing"
            return "failed", f"metric {missing[0]!r} is missing; the evaluator returned {given}"
        return "complete", ""

    def rival(
        self, name: str, metrics: Mapping[str, float], front: Mapping[int, Mapping[str, float]]
    ) -> int | None:
        """Return which member of a front an architecture must reach in one objective.

        Of the members that are at least as good in all other objectives it is the best: whoever is
        worse than that is not on the front.

        Args:
            metrics: What is known of the architecture.
            front: Metrics of the members, by the number of the trial.

        Returns:
            The number of the trial; None where there is no such member, or another objective is not
            known yet.
        """
        others = [other for other in self.objectives if other != name]
        if name not in self.objectives or any(other not in metrics for other in others):
            return None
        losses = self.losses([{**metrics, name: 0.0}])[0]
        better = {
            number: self.sign(name) * member[name]
            for number, member in front.items()
            if (self.losses([{**member, name: 0.0}])[0] <= losses).all()
        }
        return min(better, key=better.__getitem__) if better else None

    def front(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the complete records that no other dominates, best first in the first objective.

        Bounds are not asked again: a record says itself whether it is complete.
        """
        complete = [record for record in records if record.state == "complete"]
        losses = self.losses([record.metrics for record in complete])
        kept = [index for index, keep in enumerate(non_dominated(losses)) if keep]
        return [complete[index] for index in sorted(kept, key=lambda index: tuple(losses[index]))]


def _check_direction(name: str, direction: str) -> None:
    if direction not in ("maximize", "minimize"):
        raise UserError(
            f"objectives.{name}: {direction!r} is no direction; use 'maximize' or 'minimize'"
        )
    better = _registered_direction(name)
    if better not in (None, direction):
        raise UserError(
            f"objectives.{name}: {direction!r} is the wrong way round; {name} is better when it is "
            f"{'higher' if better == 'maximize' else 'lower'}, use {better!r}"
        )


def _check_bound(name: str, bound: float) -> None:
    if not math.isfinite(bound):
        raise UserError(f"constraints.{name}: {bound!r} is no bound; use a finite number")
    better = _registered_direction(name)
    if better == "maximize":
        raise UserError(
            f"constraints.{name}: {bound!r} is not possible; a constraint is an upper bound, and "
            f"{name} is better when it is higher. Make it an objective"
        )
    if better == "minimize" and bound <= 0:
        raise UserError(
            f"constraints.{name}: {bound!r} is not possible; a positive upper bound is needed"
        )


def _registered_direction(name: str) -> str | None:
    """The better direction of a registered metric; None of a user's own that nobody declared."""
    from evaluators.metric import METRICS  # loads torch, which a worker with a table never needs

    return METRICS[name].direction if name in METRICS else None
