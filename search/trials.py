"""What a search produces: one record per evaluated architecture, and the result as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from configs.errors import UserError

if TYPE_CHECKING:  # a worker that looks numbers up in a table needs no torch
    import optuna
    import pandas

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

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for whatever Optuna and its dashboard do with one.

        Raises:
            UserError: It was kept in memory, and is gone.
        """
        import optuna

        if self.storage is None:
            raise UserError("storage: the study was kept in memory; give run_search a path")
        return optuna.load_study(study_name=self.study_name, storage=self.storage)

    def trials_dataframe(self) -> pandas.DataFrame:
        """Return all trials: number, state, seconds, metrics, a column for each layer, message."""
        return _dataframe(self.trials)

    def front_dataframe(self) -> pandas.DataFrame:
        """Return the front likewise, in the order of its indices."""
        return _dataframe(self.front)

    def _repr_html_(self) -> str:
        """Show the front in a notebook."""
        from html import escape

        head = f"{escape(self.study_name)}: {len(self.front)} of {len(self.trials)} architectures"
        table = self.front_dataframe().drop(columns=["state", "seconds", "message"])
        return f"<p>{head} on the front</p>" + table.to_html(float_format="{:.4g}".format)


def _dataframe(records: Sequence[TrialRecord]) -> pandas.DataFrame:
    import pandas

    rows = [
        {
            "number": record.number,
            "state": record.state,
            "seconds": record.seconds,
            **record.metrics,
            **{f"layer_{index:02d}": name for index, name in enumerate(record.architecture)},
            "message": record.message,
        }
        for record in records
    ]
    return pandas.DataFrame(rows)
