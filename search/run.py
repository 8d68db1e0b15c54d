"""One search from the first proposal to the front: `run_search`."""

from __future__ import annotations

import contextlib
import difflib
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import UserError
from search.front import hypervolume, losses_of, reference_point
from search.progress import ProgressDisplay
from search.records import SearchProgress, SearchResult, State, TrialRecord, judge, pareto_front

if TYPE_CHECKING:
    from search.proposals import Proposer
    from search.study import SearchStudy
    from search_space import Architecture, ChoiceSpace

SAMPLERS = ("nsga2", "tpe", "random", "evolution")
REFERENCE_TRIALS = 10  # complete trials that fix the reference point of the hypervolume
HOPELESS = 6  # failures without a single success, after which the evaluator counts as broken

Evaluator = Callable[["Architecture"], Mapping[str, float]]
OnTrial = Callable[[TrialRecord, SearchProgress], None]


def run_search(
    space: ChoiceSpace,
    evaluator: Evaluator,
    objectives: Mapping[str, str],
    *,
    trials: int,
    sampler: str = "nsga2",
    seed: int = 0,
    workers: int = 1,
    storage: str | Path | None = None,
    study_name: str = "search",
    constraints: Mapping[str, float] | None = None,
    address: str | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    start: Sequence[Architecture] = (),
    on_trial: OnTrial | None = None,
    progress: bool | None = None,
) -> SearchResult:
    """Searches a space for the best architectures; called again, it resumes.

    The evaluator runs in `workers` processes, one copy in each, which stays for the whole search:
    what it loads on its first call is there on the next. Exceptions end the trial as `failed`
    (`evaluators.TooNoisy`: `unmeasurable`) and the search goes on; a trial is tried again, twice,
    only when its process died.

    A search with one worker and the same seed makes the same trials. Equal networks are evaluated
    once. On SIGINT and SIGTERM the search stops with KeyboardInterrupt; finished evaluations are
    in the study by then, running ones are redone by the next call.

    Args:
        space: Any `ChoiceSpace`, so also a `SearchSpace`.
        evaluator: Gives the metrics of an architecture. Where a metric exceeds its bound it may
            leave the dearer ones out. Must be picklable (by cloudpickle).
        objectives: Metric name to `"maximize"` or `"minimize"`.
        trials: How many architectures the study holds in the end, earlier calls included. Failed,
            infeasible and unmeasurable ones count; repetitions don't.
        sampler: One of `SAMPLERS`.
        seed: Of the sampler.
        workers: Evaluations at a time.
        storage: A path (SQLite) or an Optuna storage URL. None: in memory, nothing can resume.
        study_name: Name of the study in the storage.
        constraints: Metric name to its upper bound.
        address: Of an existing Ray cluster. None: a Ray of this process, or a local one.
        cpus_per_worker: CPUs reserved for each worker.
        gpus_per_worker: GPUs reserved for each worker.
        start: Architectures to try first.
        on_trial: Called in this process with each new record.
        progress: Show progress on standard error. None: on a terminal only.

    Returns:
        All trials of the study and their front.

    Raises:
        UserError: An argument makes no sense, the study is of another search, or the evaluator
            fails every time (nothing is recorded then).
        KeyboardInterrupt: SIGINT or SIGTERM.
    """
    constraints = dict(constraints or {})
    _check_arguments(objectives, constraints, trials=trials, sampler=sampler, workers=workers)
    for architecture in start:
        space.validate(architecture)

    # Imported here because Optuna takes half a second and Ray another one.
    import optuna

    from search.proposals import Proposer
    from search.study import SearchStudy, sole_driver, storage_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage_url(storage)
    with sole_driver(url), ProgressDisplay(progress) as display:
        study = SearchStudy(url, study_name, space, objectives, constraints)
        proposer = Proposer(
            space,
            objectives,
            constraints,
            sampler=sampler,
            trials=trials,
            seed=seed,
            records=study.records,
            queue=[*study.interrupted, *start],
        )
        driver = _Driver(study, proposer, objectives, constraints, trials, on_trial, display)
        if len(study.records) < trials:
            _execute(driver, evaluator, address, workers, cpus_per_worker, gpus_per_worker)
    return driver.result()


class _Driver:
    """Stands between proposals, executor and study, and keeps count."""

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
        self._withheld: list[tuple[Architecture, dict[str, float], State, str, float]] = []
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
        evaluation = (architecture, *self._judge(outcome))
        if evaluation[2] == "failed" and not self._proven:
            self._withheld.append(evaluation)
            if len(self._withheld) == HOPELESS:
                raise self._hopeless()
            return
        self._proven = True
        for held in [*self._withheld, evaluation]:
            self._record(*held)
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
        architecture, _, _, message, _ = self._withheld[0]
        return UserError(
            f"the evaluator has never succeeded, {len(self._withheld)} failures so far; the first, "
            f"for {'/'.join(architecture)}: {message}"
        )

    def _judge(self, outcome: list[Any] | None) -> tuple[dict[str, float], State, str, float]:
        if outcome is None:
            return {}, "failed", "its worker process died three times", 0.0
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
        return metrics, state, message, seconds

    def _record(
        self,
        architecture: Architecture,
        metrics: dict[str, float],
        state: State,
        message: str,
        seconds: float,
    ) -> None:
        record = self.study.add(architecture, metrics, state, message, seconds)
        self._proposer.learn(record)
        if len(self.study.records) == self.trials:
            self._note_running()
        progress = self._progress()
        self._display.update(progress)
        if self._on_trial is not None:
            self._on_trial(record, progress)

    def _note_running(self) -> None:
        self.study.set_running([*self._running, *(held[0] for held in self._withheld)])

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


def _execute(
    driver: _Driver,
    evaluator: Evaluator,
    address: str | None,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
) -> None:
    from search.execution import StudySearcher, execute, pickle_evaluator, ray_session

    pickled = pickle_evaluator(evaluator)
    searcher = StudySearcher(driver.propose, driver.finish)
    session = ray_session(address, workers, cpus_per_worker, gpus_per_worker)
    with session as own_ray, _signals_to(searcher):
        execute(
            searcher,
            pickled,
            trials=driver.trials - len(driver.study.records),
            workers=workers,
            cpus_per_worker=cpus_per_worker,
            gpus_per_worker=gpus_per_worker,
            own_ray=own_ray,
        )


@contextlib.contextmanager
def _signals_to(searcher: Any) -> Iterator[None]:
    """SIGINT and SIGTERM end the search between two events rather than within a write."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if searcher.error is not None:
            raise KeyboardInterrupt  # asked twice: don't wait
        searcher.error = KeyboardInterrupt()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_arguments(
    objectives: Mapping[str, str],
    constraints: Mapping[str, float],
    *,
    trials: int,
    sampler: str,
    workers: int,
) -> None:
    if not objectives:
        raise UserError("objectives: at least one metric is needed")
    for name, direction in objectives.items():
        if direction not in ("maximize", "minimize"):
            raise UserError(
                f"objectives.{name}: {direction!r} is no direction; use 'maximize' or 'minimize'"
            )
    for name, bound in constraints.items():
        if not math.isfinite(bound):
            raise UserError(f"constraints.{name}: {bound!r} is no bound; use a finite number")
    if trials < 1 or workers < 1:
        name, value = ("trials", trials) if trials < 1 else ("workers", workers)
        raise UserError(f"{name}: {value} is too few; use 1 or more")
    if sampler not in SAMPLERS:
        near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"sampler: {sampler!r} doesn't exist; {hint}valid: {', '.join(SAMPLERS)}")
