"""One search from the first proposal to the front: `run_search`."""

from __future__ import annotations

import contextlib
import difflib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UserError
from search.progress import ProgressDisplay
from search.trials import SearchProgress, SearchResult, TrialRecord

if TYPE_CHECKING:
    from search.driver import SearchDriver
    from search_space import Architecture, ChoiceSpace

SAMPLERS = ("nsga2", "tpe", "random", "evolution")

Evaluator = Callable[["Architecture"], Mapping[str, float]]


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
    on_trial: Callable[[TrialRecord, SearchProgress], None] | None = None,
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
        address: Of an existing Ray cluster. None: a local Ray for this search. A Ray that this
            process uses already is taken in any case.
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

    from search.driver import SearchDriver
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
        driver = SearchDriver(study, proposer, objectives, constraints, trials, on_trial, display)
        if len(study.records) < trials:
            _execute(driver, evaluator, address, workers, cpus_per_worker, gpus_per_worker)
    return driver.result()


def _execute(
    driver: SearchDriver,
    evaluator: Evaluator,
    address: str | None,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
) -> None:
    from search.executors.ray import StudySearcher, execute, pickle_evaluator, ray_session

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
