"""Searches a trained supernet and reports the front."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from configs import Config, UserError
from evaluators.metrics import METRICS, TIMED, describe_metric
from experiments.confirmation import confirm_front
from experiments.console import busy, console, step_progress
from experiments.devices import gpus_per_worker, resolve_device
from experiments.evaluator import SupernetEvaluator
from experiments.reporting.report import write_report
from experiments.reporting.tables import front_table
from experiments.settings import goal_of
from experiments.studies import StudyPlan, plan_study
from experiments.verified import predict_verified
from experiments.workspace import Workspace
from search import SearchProgress, SearchResult, TrialRecord, run_search
from search.features import architecture_features
from search.layer_sums import LayerSums
from search.layer_tables import layer_tables
from search.problem import Features, Known
from search.space_profile import (
    SpaceProfile,
    check_feasible,
    profile_space,
    uniform_architectures,
)
from search.study import parameters_of, store_again
from search.trials import SEARCHED
from search_space import Architecture, SearchSpace, named_architecture, translate

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def search_architectures(
    config: Config, workspace: Workspace, tracker: Tracker | None = None
) -> SearchResult:
    """Profile the space, run or resume the study, measure the front a second time and report it.

    Writes ``report/`` with pictures, tables and one folder per member of the front.

    Raises:
        UserError: No supernet, another search than the study's, a bound that nothing keeps, or
            another device than before. Until then nothing is written.
        KeyboardInterrupt: Asked to stop; the same call continues.
    """
    return prepare_search(config, workspace).run(tracker)


def prepare_search(config: Config, workspace: Workspace) -> PreparedSearch:
    """Return a search that nothing was found to stand in the way of; nothing is written.

    The space is profiled, and shown.

    Raises:
        UserError: As for `search_architectures`.
    """
    space = SearchSpace(config.space, config.plugins)
    start = _starting_points(config.search.start, space, config.search.trials)
    study = plan_study(config, workspace)
    evaluator = SupernetEvaluator(
        config,
        workspace,
        study.context["fingerprint"],
        study.context["reference_ms"],
        study.known,
    )
    sums = functools.cache(evaluator.sums)  # asked for the same architectures twice
    with busy("Profiling the space ..."):
        profile = profile_space(
            space,
            evaluator.profile,
            goal_of(config).bounded_by(evaluator.cheap_metrics),
            sums=sums,
            samples=config.search.profile_samples,
            seed=config.seed,
        )
        tables = layer_tables(space, sums)
        scores = {name: functools.partial(evaluator.score, name) for name in config.search.features}
        features = architecture_features(space, tables, scores, seed=config.seed)
    console.print(_profile_table(profile))
    check_feasible(profile)
    known: dict[str, Callable[[Architecture], float]] = {}
    for name in goal_of(config).metrics:
        made = describe_metric(name).table(space, config.latency, resolve_device(config.device))
        if calculate := tables.get(name) or made:
            known[name] = calculate
    return PreparedSearch(config, workspace, space, study, evaluator, start, known, features)


@dataclass(frozen=True)
class PreparedSearch:
    """A search that may begin or go on; see `prepare_search`."""

    config: Config
    workspace: Workspace
    space: SearchSpace
    study: StudyPlan
    evaluator: SupernetEvaluator
    start: list[Architecture]
    known: Known
    features: Features

    def run(self, tracker: Tracker | None = None) -> SearchResult:
        """Run or resume the study, measure its front a second time and report it.

        Raises:
            UserError: No architecture keeps the bounds; what was measured is reported all the same.
            KeyboardInterrupt: Asked to stop; the same call continues.
        """
        self.workspace.keep(self.config)
        result = self._search(tracker)
        if not result.front:
            counts = Counter(record.state for record in result.trials)
            found = ", ".join(f"{count} {state}" for state, count in counts.items())
            raise UserError(
                f"search.constraints: none of {len(result.trials)} architectures is on a front "
                f"({found}); relax the bounds or search longer"
            )
        result = self._confirm(result, tracker)
        verified = predict_verified(result, self.space, self.workspace.retrained)
        files = write_report(result, self.space, self.workspace.report, verified)
        console.print(front_table(result, verified))
        _say_what_was_read(result)
        _say_how_well_time_is_predicted(result, self.space)
        if tracker is not None:
            for file in files:
                if file.parent == self.workspace.report:
                    tracker.artifact(file, "report")
            tracker.artifact(self.workspace.report / "front", "report/front")
        if all(member.state == "infeasible" for member in result.front):
            raise UserError(
                f"search.constraints: {result.note}. Relax the bounds or search longer; what was "
                f"measured is in {self.workspace.report}"
            )
        if result.note:
            console.print(result.note)
        return result

    def _search(self, tracker: Tracker | None) -> SearchResult:
        search, goal = self.config.search, goal_of(self.config)

        def on_trial(record: TrialRecord, progress: SearchProgress) -> None:
            if tracker is not None:
                _track_trial(tracker, record)
                _track_progress(tracker, progress)

        if tracker is not None:
            tracker.tags({"fingerprint": self.study.context["fingerprint"]})
        result = run_search(
            self.space,
            self.evaluator,
            goal.objectives,
            trials=search.trials,
            sampler=search.sampler,
            seed=self.config.seed,
            workers=search.workers,
            storage=self.study.url,
            study_name=self.study.name,
            constraints=goal.bounds,
            context=self.study.context,
            address=search.address or None,
            cpus_per_worker=search.cpus_per_worker,
            gpus_per_worker=gpus_per_worker(self.config),
            start=self.start,
            known=self.known,
            racing=search.racing,
            features=self.features,
            on_trial=on_trial,
            progress=True,
        )
        if tracker is not None:  # those that an interrupted run finished but could not track
            for record in result.trials:
                if not tracker.has_finished(_trial_name(record)):
                    _track_trial(tracker, record)
        return result

    def _confirm(self, result: SearchResult, tracker: Tracker | None) -> SearchResult:
        """Measure the front a second time; the new values reach the study and MLflow."""

        done = itertools.count(1)

        def store(record: TrialRecord) -> None:
            store_again(self.study.url, self.study.name, record.number, record.again)
            if tracker is not None:
                _track_again(tracker, record)
            advance(next(done), "")

        with step_progress("Front, measured again", len(result.front)) as advance:
            return confirm_front(result, self.evaluator.again, store)


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


def _profile_table(profile: SpaceProfile) -> Table:
    feasible = f"; {profile.feasible:.0%} of these within all bounds" if profile.bounds else ""
    table = Table(
        title=f"Space: {profile.measured} architectures, {profile.samples} at random{feasible}",
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


def _say_what_was_read(result: SearchResult) -> None:
    """Say from how many images each of the two accuracies of the front was read."""
    for member in result.front[:1]:
        metrics = member.metrics
        if f"{SEARCHED}accuracy_images" in metrics:
            console.print(
                f"Accuracy: of {metrics['accuracy_images']:.0f} validation images that the search "
                f"has not read; in the search: of {metrics[f'{SEARCHED}accuracy_images']:.0f} "
                "others. ± is a standard error.",
                highlight=False,
            )


def _say_how_well_time_is_predicted(result: SearchResult, space: SearchSpace) -> None:
    """Say how far a sum over the layers is from each timed metric of the goal."""
    for name in result.goal.metrics:
        metric = describe_metric(name)
        measured = [record for record in result.trials if name in record.metrics]
        if metric.effort == TIMED and len(measured) > 1:
            values = [record.metrics[name] for record in measured]
            sums = LayerSums(space).fit([record.architecture for record in measured], values)
            console.print(
                f"{metric.label} as a sum over the layers, each of {len(values)} predicted from "
                f"the others: ± {metric.text(sums.error)}.",
                highlight=False,
            )


def _trial_name(record: TrialRecord) -> str:
    return f"trial-{record.number}"


def _track_trial(tracker: Tracker, record: TrialRecord) -> None:
    choices = parameters_of(record.architecture)
    tags = {"state": record.state, "message": record.message[:500]}
    with tracker.child(_trial_name(record), "trial", params=choices, tags=tags) as child:
        child.metrics({**record.metrics, "seconds": record.seconds})


def _track_again(tracker: Tracker, record: TrialRecord) -> None:
    """Log second values as the next step of the first ones."""
    with tracker.child(_trial_name(record), "trial") as child:
        child.metrics(record.again, step=1)


def _track_progress(tracker: Tracker, progress: SearchProgress) -> None:
    values: dict[str, float] = {"front_size": progress.front_size}
    values |= {f"best_{name}": value for name, value in progress.best.items()}
    if progress.hypervolume is not None:
        values["hypervolume"] = progress.hypervolume
    tracker.metrics(values, step=progress.done)
