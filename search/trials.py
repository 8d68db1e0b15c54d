"""What a search produces: one record per evaluated architecture, and the result as a whole."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a worker that looks numbers up in a table needs no torch
    from search.goal import Goal
    from search_space import Architecture

State = Literal["complete", "stopped", "infeasible", "unmeasurable", "failed"]

SEARCHED = "searched_"  # before the name of a metric: the value by which a search selected
INHERITED = "inherited_"  # likewise: the value with weights of the supernet, beside a verified one
UNNUMBERED = -1  # the number of a record that is not in the study yet


@dataclass(frozen=True)
class TrialRecord:
    """One evaluated architecture.

    `number` is that of the Optuna trial, in the order of completion. `state` says what `metrics`
    hold: all objectives (`complete`), all objectives of which one was read in part, as far as was
    needed to see that the front cannot be reached (`stopped`; `message` names the trial that is
    better), at least the bound that was exceeded (`infeasible`), or whatever was known when it
    ended (`unmeasurable`, `failed`; `message` says why). `again` holds what a second measurement
    gave, by which nothing was selected; empty where there was none.
    """

    number: int
    architecture: Architecture
    metrics: dict[str, float]
    state: State
    message: str = ""
    seconds: float = 0.0
    again: dict[str, float] = field(default_factory=dict)

    def measured_again(self) -> TrialRecord:
        """Return the record with the values of its second measurement.

        The values by which it was selected are kept under `searched_` and their names.
        """
        first = {f"{SEARCHED}{n}": self.metrics[n] for n in self.again if n in self.metrics}
        return dataclasses.replace(self, metrics={**self.metrics, **self.again, **first})


@dataclass(frozen=True)
class SearchResult:
    """All trials in the order of completion, and the front: complete, feasible, not dominated.

    `hypervolume` holds one value per trial, `reference` the point it is measured from (one value
    per objective, in its own unit). `storage` is the URL for `optuna.load_study`, None when the
    study was kept in memory. `note` says why a search ended before its budget.
    """

    trials: list[TrialRecord]
    front: list[TrialRecord]
    goal: Goal
    study_name: str
    storage: str | None
    hypervolume: list[float] = field(default_factory=list)
    reference: dict[str, float] = field(default_factory=dict)
    note: str = ""
