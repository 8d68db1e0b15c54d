"""What a search produces: one record per evaluated architecture, and the result as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from search.front import losses_of, non_dominated

if TYPE_CHECKING:  # a worker that looks numbers up in a table needs no torch
    from search_space import Architecture

State = Literal["complete", "infeasible", "unmeasurable", "failed"]

UNNUMBERED = -1  # the number of a record that isn't in the study yet


@dataclass(frozen=True)
class TrialRecord:
    """One evaluated architecture.

    `number` is that of the Optuna trial, in the order of completion. `state` says what `metrics`
    hold: all objectives (`complete`), at least the bound that was exceeded (`infeasible`), or
    whatever was known when it ended (`unmeasurable`, `failed`; `message` says why).
    """

    number: int
    architecture: Architecture
    metrics: dict[str, float]
    state: State
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands; given to `on_trial` with every record.

    `best` is the best value of each objective among the front, empty before there is one;
    `hypervolume` is None until enough trials are complete to fix the reference point;
    `seconds_left` is None before the first trial of this run has ended.
    """

    done: int
    total: int
    counts: dict[str, int]
    front_size: int
    best: dict[str, float]
    hypervolume: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class SearchResult:
    """All trials in the order of completion, and the front: complete, feasible, not dominated.

    `hypervolume` holds one value per trial, `reference` the point it is measured from (one value
    per objective, in its own unit). `storage` is the URL for `optuna.load_study`, None when the
    study was kept in memory. `note` says why a search ended before its budget.
    """

    trials: list[TrialRecord]
    front: list[TrialRecord]
    objectives: dict[str, str]
    constraints: dict[str, float]
    study_name: str
    storage: str | None
    hypervolume: list[float] = field(default_factory=list)
    reference: dict[str, float] = field(default_factory=dict)
    note: str = ""


def pareto_front(
    records: Sequence[TrialRecord], objectives: Mapping[str, str]
) -> list[TrialRecord]:
    """The complete records that no other one dominates, best first in the first objective."""
    complete = [record for record in records if record.state == "complete"]
    losses = losses_of([record.metrics for record in complete], objectives)
    kept = [index for index, keep in enumerate(non_dominated(losses)) if keep]
    return [complete[index] for index in sorted(kept, key=lambda index: tuple(losses[index]))]


def judge(
    metrics: Mapping[str, float | None],
    objectives: Mapping[str, str],
    constraints: Mapping[str, float],
) -> tuple[State, str]:
    """What the metrics of an evaluation amount to, and a message where it isn't `complete`.

    Every returned metric must be a finite number. A bound that is exceeded makes the trial
    infeasible, and metrics that weren't measured don't matter then; otherwise each objective and
    each bounded metric must be there.
    """
    for name, value in metrics.items():
        if value is None or not math.isfinite(value):
            return "failed", f"metric {name!r} is {value}; a finite number is needed"
    exceeded = [
        f"{name} {metrics[name]:.6g} > {bound:.6g}"
        for name, bound in constraints.items()
        if metrics.get(name) is not None and metrics[name] > bound  # type: ignore[operator]
    ]
    if exceeded:
        return "infeasible", ", ".join(exceeded)
    missing = [name for name in (*objectives, *constraints) if name not in metrics]
    if missing:
        given = ", ".join(metrics) or "nothing"
        return "failed", f"metric {missing[0]!r} is missing; the evaluator returned {given}"
    return "complete", ""
