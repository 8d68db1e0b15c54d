"""The driver of a search: between proposals, an executor and the study, it keeps count."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import UserError
from search.executors.evaluation import Front, Outcome, Task
from search.front import hypervolume, reference_point
from search.goal import Goal
from search.progress import ProgressDisplay, SearchProgress
from search.proposals import Proposer
from search.study import SearchStudy
from search.trials import UNNUMBERED, SearchResult, State, TrialRecord

if TYPE_CHECKING:
    from search_space import Architecture

REFERENCE_TRIALS = 10  # complete trials that fix the reference point of the hypervolume
HOPELESS = 6  # failures without a single success, after which the evaluator counts as broken;
# those of `start` are left out: the networks that people name may all be broken in one way

OnTrial = Callable[[TrialRecord, SearchProgress], None]


class SearchDriver:
    """Proposes until the budget is spent, records what comes back, and sums it up.

    Args:
        trials: How many records the study holds in the end.
        racing: Whether the evaluator is given the front that an architecture has to reach.
        spared: Architectures, in canonical form, that are measured in full all the same.
        on_trial: Called with each new record and where the search is.
    """

    def __init__(
        self,
        study: SearchStudy,
        proposer: Proposer,
        goal: Goal,
        trials: int,
        racing: bool,
        spared: Collection[Architecture],
        on_trial: OnTrial | None,
        display: ProgressDisplay,
    ) -> None:
        self.study, self.goal, self.trials = study, goal, trials
        self._racing, self._spared = racing, frozenset(spared)
        self._proposer, self._on_trial, self._display = proposer, on_trial, display
        self._front = goal.front(study.records)
        self._running: list[Architecture] = []
        self._withheld: list[TrialRecord] = []
        self._proven = any(record.state != "failed" for record in study.records)
        self._exhausted = False
        self._first: tuple[float, int] | None = None  # when records of this run began, with which

    def propose(self) -> Task | None:
        """Return the next evaluation, or None when the budget or the space is exhausted."""
        taken = len(self.study.records) + len(self._withheld) + len(self._running)
        if taken >= self.trials:
            return None
        architecture = self._proposer.propose()
        if architecture is None:
            self._exhausted = True
            return None
        self._running.append(architecture)
        self._note_running()
        return Task(architecture, self._to_reach(architecture))

    def finish(self, architecture: Architecture, outcome: Outcome) -> None:
        """Judge what came of an evaluation and record it.

        Until an evaluation has succeeded, failures are withheld: those of a broken evaluator are
        not results, and once it is corrected the same call starts afresh.

        Raises:
            UserError: The evaluator has failed too often without ever succeeding.
        """
        self._running.remove(architecture)
        record = self._judge(architecture, outcome)
        if record.state == "failed" and not self._proven:
            self._withheld.append(record)
            drawn = [each for each in self._withheld if each.architecture not in self._spared]
            if len(drawn) == HOPELESS:
                raise self._hopeless()
            return
        self._proven = True
        for finished in [*self._withheld, record]:
            self._record(finished)
        self._withheld.clear()

    def result(self) -> SearchResult:
        """Sum up all trials of the study.

        Raises:
            UserError: No evaluation succeeded.
        """
        if self._withheld:
            raise self._hopeless()
        records = self.study.records
        reference = self._reference()
        if reference is None:
            complete = [record.metrics for record in records if record.state == "complete"]
            reference = reference_point(self.goal.losses(complete)) if complete else None
        note = f"the space holds nothing new: {len(records)} of {self.trials} trials were possible"
        return SearchResult(
            trials=list(records),
            front=self.goal.front(records),
            goal=self.goal,
            study_name=self.study.name,
            storage=self.study.url,
            hypervolume=self._volumes(reference),
            reference={}
            if reference is None
            else {
                name: float(self.goal.sign(name) * loss)
                for name, loss in zip(self.goal.objectives, reference)
            },
            note=note if self._exhausted else "",
        )

    def _to_reach(self, architecture: Architecture) -> Front | None:
        """The front as it is now; None without a race, empty for who does not take part."""
        if not self._racing:
            return None
        members = [] if architecture in self._spared else self._front
        return {member.number: member.metrics for member in members}

    def _hopeless(self) -> UserError:
        first = self._withheld[0]
        return UserError(
            f"the evaluator has never succeeded, {len(self._withheld)} failures so far; the first, "
            f"for {'/'.join(first.architecture)}: {first.message}"
        )

    def _judge(self, architecture: Architecture, outcome: Outcome) -> TrialRecord:
        state: State
        if outcome.error:
            state, message = "unmeasurable" if outcome.too_noisy else "failed", outcome.error
        else:
            state, message = self.goal.judge(outcome.metrics)
            if state == "complete" and outcome.stopped:
                state, message = "stopped", outcome.stopped
        metrics = {
            name: value
            for name, value in outcome.metrics.items()
            if value is not None and math.isfinite(value)
        }
        return TrialRecord(UNNUMBERED, architecture, metrics, state, message, outcome.seconds)

    def _record(self, finished: TrialRecord) -> None:
        record = self.study.add(finished)
        self._proposer.learn(record)
        self._front = self.goal.front([*self._front, record])
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
            self.study.set_reference(reference_point(self.goal.losses(complete[:REFERENCE_TRIALS])))
        return np.array(self.study.reference)

    def _volume(self, front: list[TrialRecord], reference: np.ndarray) -> float:
        return hypervolume(self.goal.losses([record.metrics for record in front]), reference)

    def _progress(self) -> SearchProgress:
        done = len(self.study.records)
        reference, front = self._reference(), self._front
        self._first = self._first or (time.monotonic(), done)  # what comes before it is no trial
        elapsed, new = time.monotonic() - self._first[0], done - self._first[1]
        return SearchProgress(
            done=done,
            total=self.trials,
            counts=dict(Counter(record.state for record in self.study.records)),
            front_size=len(front),
            best={
                name: self.goal.best(name, [record.metrics[name] for record in front])
                for name in self.goal.objectives
                if front
            },
            hypervolume=None if reference is None else self._volume(front, reference),
            seconds_left=elapsed / new * (self.trials - done) if new else None,
        )

    def _volumes(self, reference: np.ndarray | None) -> list[float]:
        """The hypervolume after each trial; 0 before the first complete one."""
        volumes: list[float] = []
        front: list[TrialRecord] = []
        for record in self.study.records:
            grown = self.goal.front([*front, record])
            if reference is None or (volumes and grown == front):
                volumes.append(volumes[-1] if volumes else 0.0)
            else:
                volumes.append(self._volume(grown, reference))
            front = grown
        return volumes
