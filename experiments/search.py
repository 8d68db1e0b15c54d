"""Searches a trained supernet and reports the front."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from configs import Config, UserError
from configs.atomic import write_atomically
from configs.differences import first_difference
from evaluators import TooNoisy
from evaluators.fingerprint import Fingerprint
from evaluators.metrics import METRICS, describe_metric
from experiments.console import busy, console, step_progress
from experiments.devices import gpus_per_worker
from experiments.evaluator import SupernetEvaluator, latency_fingerprint
from experiments.reporting.report import write_report
from experiments.reporting.tables import front_table
from experiments.settings import goal_of
from experiments.workspace import Workspace
from search import SearchProgress, SearchResult, TrialRecord, run_search
from search.space_profile import (
    SpaceProfile,
    check_feasible,
    profile_space,
    uniform_architectures,
)
from search.study import parameters_of
from search_space import Architecture, SearchSpace, named_architecture, translate

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def search_architectures(
    config: Config, workspace: Workspace, tracker: Tracker | None = None
) -> SearchResult:
    """Profile the space, run or resume the study, measure the front anew and report it.

    Writes ``report/`` with pictures, tables and one folder per member of the front.

    Raises:
        UserError: No supernet, an impossible constraint, or another device than before.
        KeyboardInterrupt: Asked to stop; the same call continues.
    """
    search, goal = config.search, goal_of(config)
    space = SearchSpace(config.space, config.plugins)
    fingerprint = _check_fingerprint(config, workspace)
    evaluator = SupernetEvaluator(config, workspace, fingerprint)
    _profile(config, evaluator, space, tracker)

    def on_trial(record: TrialRecord, progress: SearchProgress) -> None:
        if tracker is not None:
            _track_trial(tracker, record, space)
            _track_progress(tracker, progress)

    result = run_search(
        space,
        evaluator,
        goal.objectives,
        trials=search.trials,
        sampler=search.sampler,
        seed=config.seed,
        workers=search.workers,
        storage=search.storage or workspace.study,
        study_name=config.name,
        constraints=goal.bounds,
        address=search.address or None,
        cpus_per_worker=search.cpus_per_worker,
        gpus_per_worker=gpus_per_worker(config),
        start=_starting_points(search.start, space, search.trials),
        on_trial=on_trial,
        progress=True,
    )
    if tracker is not None:  # those that an interrupted run finished but could not track
        for record in result.trials:
            if not tracker.has_finished(_trial_name(record)):
                _track_trial(tracker, record, space)
    if not result.front:
        counts = Counter(record.state for record in result.trials)
        found = ", ".join(f"{count} {state}" for state, count in counts.items())
        raise UserError(
            f"search.constraints: none of {len(result.trials)} architectures is on a front "
            f"({found}); relax the bounds or search longer"
        )
    result = _measure_front_again(result, evaluator)
    files = write_report(result, space, workspace.report)
    console.print(front_table(result))
    if result.note:
        console.print(result.note)
    if tracker is not None:
        for file in files:
            if file.parent == workspace.report:
                tracker.artifact(file, "report")
        tracker.artifact(workspace.report / "front", "report/front")
    return result


def _starting_points(names: Sequence[str], space: SearchSpace, trials: int) -> list[Architecture]:
    """The hand-made networks that are asked for, and those with one candidate throughout.

    With the plain networks among the first, no search misses the baseline it will be compared
    with. They take a quarter of the trials at most.
    """
    points = []
    for name in names:
        source, architecture = named_architecture(name)
        try:
            points.append(translate(architecture, source, space))
        except UserError as error:
            raise UserError(f"search.start: {name!r} is not in the space: {error}") from None
    return points + uniform_architectures(space)[: trials // 4]


def _check_fingerprint(config: Config, workspace: Workspace) -> Fingerprint:
    """What latencies are marked with; a resumed search must run on the device it began on."""
    now = latency_fingerprint(config)
    if workspace.fingerprint.exists() and workspace.study.exists():
        before = json.loads(workspace.fingerprint.read_text(encoding="utf-8"))
        if difference := first_difference(before, now):
            raise UserError(
                f"{workspace.directory}: its latencies were measured with other settings: "
                f"{difference}; values of different devices never share a front. Choose another "
                "directory with --out"
            )
    write_atomically(workspace.fingerprint, json.dumps(now, indent=1))
    return now


def _profile(
    config: Config, evaluator: SupernetEvaluator, space: SearchSpace, tracker: Tracker | None
) -> None:
    """Says what the space costs, and refuses bounds that nothing in it satisfies."""
    with busy("Profiling the space ..."):
        profile = profile_space(
            space,
            evaluator.profile,
            goal_of(config).bounded_by(evaluator.cheap_metrics),
            samples=config.search.profile_samples,
            seed=config.seed,
        )
    console.print(_profile_table(profile))
    check_feasible(profile)
    if tracker is not None:
        tracker.tags({"fingerprint": evaluator.expected or {}})


def _profile_table(profile: SpaceProfile) -> Table:
    feasible = f", {profile.feasible:.0%} within all bounds" if profile.bounds else ""
    table = Table(
        title=f"Space: {profile.samples} random architectures{feasible}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("metric", "smallest", "median", "largest", "bound"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, values in profile.ranges.items():
        if name in METRICS:  # companions, such as the spread of a latency, are left out
            metric = describe_metric(name)
            ends = (values.smallest, values.median, values.largest)
            bound = metric.write(profile.bounds[name]) if name in profile.bounds else ""
            table.add_row(metric.title, *map(metric.write, ends), bound)
    return table


def _measure_front_again(result: SearchResult, evaluator: SupernetEvaluator) -> SearchResult:
    """The front with latency and accuracy measured once more, end to end.

    The best of many noisy values is too good to be true; a second measurement isn't chosen by its
    value. Members that turn out dominated or over a bound leave the front, and one that the device
    is too busy to measure keeps its first values.
    """
    again = []
    with step_progress("Front, measured again", len(result.front)) as advance:
        for number, record in enumerate(result.front, start=1):
            try:
                metrics = {**record.metrics, **evaluator(record.architecture)}
            except TooNoisy:
                metrics = record.metrics
            again.append(dataclasses.replace(record, metrics=metrics))
            advance(number, "")
    within = [record for record in again if not result.goal.exceeded(record.metrics)]
    front = result.goal.front(within)
    return dataclasses.replace(result, front=front or result.front)


def _trial_name(record: TrialRecord) -> str:
    return f"trial-{record.number}"


def _track_trial(tracker: Tracker, record: TrialRecord, space: SearchSpace) -> None:
    choices = parameters_of(record.architecture)
    tags = {"state": record.state, "message": record.message[:500]}
    with tracker.child(_trial_name(record), "trial", params=choices, tags=tags) as child:
        child.metrics({**record.metrics, "seconds": record.seconds})


def _track_progress(tracker: Tracker, progress: SearchProgress) -> None:
    values: dict[str, float] = {"front_size": progress.front_size}
    values |= {f"best_{name}": value for name, value in progress.best.items()}
    if progress.hypervolume is not None:
        values["hypervolume"] = progress.hypervolume
    tracker.metrics(values, step=progress.done)
