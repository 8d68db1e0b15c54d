"""One search from the first proposal to the front: `run_search`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from configs.suggestions import did_you_mean
from search.executors.executor import Evaluator
from search.executors.process import process_unchanged
from search.goal import Direction, Goal
from search.problem import Features, Known, Problem
from search.progress import ProgressDisplay, SearchProgress
from search.trials import SearchResult, TrialRecord

if TYPE_CHECKING:
    import optuna

    from search_space import Architecture, ChoiceSpace


def run_search(
    space: ChoiceSpace,
    evaluator: Evaluator,
    objectives: Mapping[str, Direction],
    *,
    trials: int,
    sampler: str | optuna.samplers.BaseSampler = "surrogate",
    seed: int = 0,
    workers: int | Literal["auto"] = 1,
    storage: str | Path | None = None,
    study_name: str = "search",
    constraints: Mapping[str, float] | None = None,
    context: Mapping[str, Any] = MappingProxyType({}),
    address: str | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    timeout_s: float | None = None,
    start: Sequence[Architecture] = (),
    known: Known = MappingProxyType({}),
    features: Features | None = None,
    racing: bool = False,
    on_trial: Callable[[TrialRecord, SearchProgress], None] | None = None,
    progress: bool | None = None,
) -> SearchResult:
    """Search a space for the best architectures; called again, it resumes.

    The evaluator runs in `workers` processes, one copy in each, which stays for the whole search:
    what it loads on its first call is there on the next. With ``workers=0`` it runs in this process
    and Ray is not needed. Exceptions end the trial as `failed` (`TooNoisy`: `unmeasurable`,
    `Stopped`: `stopped`) and the search goes on. An architecture whose process died is tried again,
    three times at most; one that was lost with its machine, or never begun, does not count as
    failed for it.

    A search without or with one worker and the same seed makes the same trials. Equal networks are
    evaluated once. On SIGINT and SIGTERM the search stops with KeyboardInterrupt; finished
    evaluations are in the study by then, running ones are redone by the next call.

    Args:
        space: Any `ChoiceSpace`, so also a `SearchSpace`.
        evaluator: Gives the metrics of an architecture. Where a metric exceeds its bound it may
            leave the more expensive ones out. Must be picklable (by cloudpickle) for workers.
        objectives: Metric name to `"maximize"` or `"minimize"`; metrics of your own are fine.
        trials: How many architectures the study holds in the end, earlier calls included. Failed,
            infeasible and unmeasurable ones count; repetitions do not.
        sampler: A registered name, or any sampler of Optuna's, which brings its own seed. The cost
            of `surrogate` grows with the trials; for more than 2,000 take `evolution`.
        seed: Of the sampler.
        workers: Evaluations at a time; 0 evaluates in this process. ``"auto"``: as many as there
            is room for in Ray, also when machines join or leave.
        storage: A path (SQLite) or an Optuna storage URL. None: in memory, nothing can resume.
        study_name: Name of the study in the storage.
        constraints: Metric name to its upper bound.
        context: What the evaluator's values depend on besides the architecture, such as data, a
            device or a supernet, in values that JSON has. It is stored in the study, which
            refuses to go on with another one: values that can't be compared never share a front.
        address: Of an existing Ray cluster. None: a local Ray for this search. A Ray that this
            process uses already is taken in any case.
        cpus_per_worker: CPUs reserved for each worker.
        gpus_per_worker: GPUs reserved for each worker.
        timeout_s: Seconds after which an evaluation ends as `failed`, and its process with it. With
            ``workers=0`` only where the search runs in the main thread, and not under Windows.
        start: Architectures to try first.
        known: Metrics that are exact functions of the architecture, by name, such as a count or a
            table. The sampler `surrogate` computes them instead of guessing: it never proposes
            what exceeds a bound on one of them, unless nothing keeps it. Called in this process,
            thousands of times a proposal. The evaluator returns these metrics all the same.
        features: Numbers of an architecture on which objectives are likely to depend, for the
            sampler `surrogate`; see `Surrogate`.
        racing: Call the evaluator with a second argument, the metrics of the front's members by the
            number of their trial; it may raise `Stopped` where an architecture cannot reach this
            front any more. For the architectures of `start` it is empty.
        on_trial: Called in this process with each new record.
        progress: Show progress on standard error. None: on a terminal only.

    Returns:
        All trials of the study and their front.

    Raises:
        UserError: An argument makes no sense, the study is of another search, or the evaluator
            fails every time (nothing is recorded then).
        KeyboardInterrupt: SIGINT or SIGTERM.
    """
    goal = Goal(objectives, constraints or {})
    problem = Problem(space, goal, trials, seed, known, features)
    for key, value, least in (("trials", trials, 1), ("workers", workers, 0)):
        if value != "auto" and value < least:
            raise UserError(f"{key}: {value} is too few; use {least} or more")
    for architecture in start:
        space.validate(architecture)
    _check_known(problem)

    with process_unchanged():
        # Imported here because Optuna takes half a second, and Ray another one.
        import optuna

        from search.driver import SearchDriver
        from search.proposals import Proposer
        from search.storage import sole_driver, storage_url
        from search.study import SearchStudy

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = storage_url(storage)
        with sole_driver(url), ProgressDisplay(progress) as display:
            study = SearchStudy(url, study_name, space, goal, context)
            proposer = Proposer(
                problem,
                sampler=sampler,
                records=study.records,
                queue=[*study.interrupted, *start],
            )
            spared = [space.canonical(architecture) for architecture in start]
            driver = SearchDriver(study, proposer, goal, trials, racing, spared, on_trial, display)
            missing = trials - len(study.records)
            if missing > 0 and workers == 0:
                from search.executors.local import run_here

                run_here(evaluator, driver.propose, driver.finish, timeout_s)
            elif missing > 0:
                from search.executors.ray import run_on_ray

                run_on_ray(
                    evaluator,
                    driver.propose,
                    driver.finish,
                    workers=workers,
                    address=address,
                    cpus_per_worker=cpus_per_worker,
                    gpus_per_worker=gpus_per_worker,
                    timeout_s=timeout_s,
                )
            return driver.result()


def _check_known(problem: Problem) -> None:
    """Refuse metrics that are known but not asked for, and functions that fail at the first try."""
    from search.beliefs import Computed

    first = problem.space.canonical(tuple(layer.candidates[0] for layer in problem.space.layers))
    for name, function in problem.known.items():
        if name not in problem.goal.metrics:
            hint = did_you_mean(name, problem.goal.metrics)
            raise UserError(f"known.{name}: neither an objective nor bounded; {hint}")
        Computed(name, function).predict([first])
