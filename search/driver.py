"""The driver of a search: it stands between proposals, workers and study, and keeps count."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import UserError
from search.front import hypervolume, losses_of, reference_point
from search.progress import ProgressDisplay
from search.proposals import Proposer
from search.study import SearchStudy
from search.trials import (
    UNNUMBERED,
    SearchProgress,
    SearchResult,
    State,
    TrialRecord,
    judge,
    pareto_front,
)

if TYPE_CHECKING:
    from search_space import Architecture

REFERENCE_TRIALS = 10  # complete trials that fix the reference point of the hypervolume
HOPELESS = 6  # failures without a single success, after which the evaluator counts as broken

OnTrial = Callable[[TrialRecord, SearchProgress], None]


class SearchDriver:
    """Proposes until the budget is spent, records what comes back, and sums it up.

    Args:
        trials: How many records the study holds in the end.
        on_trial: Called with each new record and where the search stands.
    """

    def __init__(
        self,
        study: SearchStudy,
        proposer: Proposer,
        objectives: Mapping[str, str],
        constraints: Mapping[str, float],
        trials: int,
        on_trial: OnTrial | None,
        display: ProgressDisplay,
    ) -> None:
        self.study = study
        self.trials = trials
        self._proposer, self._on_trial, self._display = proposer, on_trial, display
        self._objectives, self._constraints = dict(objectives), dict(constraints)
        self._running: list[Architecture] = []
        self._withheld: list[TrialRecord] = []
        self._proven = any(record.state != "failed" for record in study.records)
        self._exhausted = False
        self._started, self._done_before = time.monotonic(), len(study.records)

    def propose(self) -> Architecture | None:
        taken = len(self.study.records) + len(self._withheld) + len(self._running)
        if taken >= self.trials:
            return None
        architecture = self._proposer.propose()
        if architecture is None:
            self._exhausted = True
            return None
        self._running.append(architecture)
        self._note_running()
        return architecture

    def finish(self, architecture: Architecture, outcome: list[Any] | None) -> None:
        """Judges what a worker returned and records it.

        Until an evaluation has succeeded, failures are withheld: those of a broken evaluator are
        not results, and once it is mended the same call starts afresh.
        """
        self._running.remove(architecture)
        record = self._judge(architecture, outcome)
        if record.state == "failed" and not self._proven:
            self._withheld.append(record)
            if len(self._withheld) == HOPELESS:
                raise self._hopeless()
            return
        self._proven = True
        for finished in [*self._withheld, record]:
            self._record(finished)
        self._withheld.clear()

    def result(self) -> SearchResult:
        if self._withheld:
            raise self._hopeless()
        records = self.study.records
        reference = self._reference()
        if reference is None:
            complete = [record.metrics for record in records if record.state == "complete"]
            losses = losses_of(complete, self._objectives)
            reference = reference_point(losses) if complete else None
        signs = {name: -1 if d == "maximize" else 1 for name, d in self._objectives.items()}
        note = f"the space holds nothing new: {len(records)} of {self.trials} trials were possible"
        return SearchResult(
            trials=list(records),
            front=pareto_front(records, self._objectives),
            objectives=self._objectives,
            constraints=self._constraints,
            study_name=self.study.name,
            storage=self.study.url,
            hypervolume=self._volumes(reference),
            reference={}
            if reference is None
            else {name: float(s * x) for (name, s), x in zip(signs.items(), reference)},
            note=note if self._exhausted else "",
        )

    def _hopeless(self) -> UserError:
        first = self._withheld[0]
        return UserError(
            f"the evaluator has never succeeded, {len(self._withheld)} failures so far; the first, "
            f"for {'/'.join(first.architecture)}: {first.message}"
        )

    def _judge(self, architecture: Architecture, outcome: list[Any] | None) -> TrialRecord:
        if outcome is None:
            message = "its worker process died three times"
            return TrialRecord(UNNUMBERED, architecture, {}, "failed", message)
        returned, message, unmeasurable, seconds = outcome
        state: State
        if message:
            state = "unmeasurable" if unmeasurable else "failed"
        else:
            state, message = judge(returned, self._objectives, self._constraints)
        metrics = {
            name: value
            for name, value in returned.items()
            if value is not None and math.isfinite(value)
        }
        return TrialRecord(UNNUMBERED, architecture, metrics, state, message, seconds)

    def _record(self, finished: TrialRecord) -> None:
        record = self.study.add(finished)
        self._proposer.learn(record)
        if len(self.study.records) == self.trials:
            self._note_running()
        progress = self._progress()
        self._display.update(progress)
        if self._on_trial is not None:
            self._on_trial(record, progress)

    def _note_running(self) -> None:
        self.study.set_running([*self._running, *(held.architecture for held in self._withheld)])

    def _reference(self) -> np.ndarray | None:
        """The study's reference point; set once the first complete trials are there.

        Fixed from then on, and stored, so that hypervolumes of all stages of a search, resumed or
        not, can be compared.
        """
        if self.study.reference is None:
            complete = [r.metrics for r in self.study.records if r.state == "complete"]
            if len(complete) < REFERENCE_TRIALS:
                return None
            losses = losses_of(complete[:REFERENCE_TRIALS], self._objectives)
            self.study.set_reference(reference_point(losses))
        return np.array(self.study.reference)

    def _progress(self) -> SearchProgress:
        done = len(self.study.records)
        reference = self._reference()
        front = self._proposer.front
        new = done - self._done_before
        elapsed = time.monotonic() - self._started
        volume = None
        if reference is not None:
            volume = hypervolume(
                losses_of([record.metrics for record in front], self._objectives), reference
            )
        return SearchProgress(
            done=done,
            total=self.trials,
            counts=dict(Counter(record.state for record in self.study.records)),
            front_size=len(front),
            best={
                name: (max if direction == "maximize" else min)(r.metrics[name] for r in front)
                for name, direction in self._objectives.items()
                if front
            },
            hypervolume=volume,
            seconds_left=elapsed / new * (self.trials - done) if new else None,
        )

    def _volumes(self, reference: np.ndarray | None) -> list[float]:
        """The hypervolume after each trial; 0 before the first complete one."""
        volumes: list[float] = []
        front: list[TrialRecord] = []
        for record in self.study.records:
            grown = pareto_front([*front, record], self._objectives)
            if reference is None or (volumes and grown == front):
                volumes.append(volumes[-1] if volumes else 0.0)
            else:
                metrics = [member.metrics for member in grown]
                volumes.append(hypervolume(losses_of(metrics, self._objectives), reference))
            front = grown
        return volumes
