"""Searches a trained supernet, verifies what it found and reports the front."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs import Config, UserError
from configs.atomic import write_atomically
from evaluators.metric import describe_metric
from experiments.blueprints import is_plain
from experiments.confirmation import confirm_front, confirm_verified
from experiments.console import KEPT_S, Pace, busy, console, copied, note, step_progress
from experiments.data.splits import open_images, say
from experiments.devices import gpus_per_worker, resolve_device
from experiments.evaluator import SupernetEvaluator
from experiments.plain_networks import PlainNetworks
from experiments.promising import promising
from experiments.reporting.account import Account
from experiments.reporting.description import describe_search
from experiments.reporting.orders import agreement
from experiments.reporting.report import write_report
from experiments.reporting.summary import profile_table, readings, time_predictions
from experiments.reporting.tables import front_table
from experiments.reporting.verdict import verdict
from experiments.reporting.verified import VERIFIED_TABLE, VerifiedNetwork
from experiments.settings import goal_of, reading_of
from experiments.studies import StudyPlan, note_for_dashboard, plan_study
from experiments.targets import targets_reachable
from experiments.tracking.trials import (
    has_tracked,
    track_again,
    track_front,
    track_progress,
    track_training,
    track_trial,
    track_trials,
    track_verified,
)
from experiments.verification import NothingToVerify, Verification, plan_verification
from experiments.verified import Verified, predict_verified
from experiments.workspace import Workspace
from search import SearchProgress, SearchResult, TrialRecord, run_search
from search.features import architecture_features
from search.halving import Entrant
from search.layer_tables import layer_tables
from search.problem import Features, Known
from search.progress import describe
from search.space_profile import check_feasible, profile_space, uniform_architectures
from search.study import set_aside, store_again
from search_space import Architecture, SearchSpace, named_architecture, translate

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def search_architectures(
    config: Config, workspace: Workspace, tracker: Tracker | None = None
) -> SearchResult:
    """Profile the space, run or resume the study, verify what is most promising and report it.

    With `search.verify` the front is that of networks which were trained alone (see
    `experiments.verification`); without it, accuracies are inherited ones, read a second time.
    Writes ``report/`` with pictures, tables, what is said in the end (``summary.txt``), and one
    folder per member of the front.

    Raises:
        UserError: No supernet, another search than the study's, a bound that nothing keeps, or
            another device than before. Until then nothing is written.
        KeyboardInterrupt: Asked to stop; the same call continues.
    """
    return prepare_search(config, workspace).run(tracker)


def prepare_search(config: Config, workspace: Workspace, rescore: bool = False) -> PreparedSearch:
    """Return a search that nothing was found to stand in the way of; nothing is written.

    The space is profiled, and shown.

    Args:
        rescore: See `plan_study`.

    Raises:
        UserError: As for `search_architectures`.
    """
    with targets_reachable(config):
        return _prepare(config, workspace, rescore)


def _prepare(config: Config, workspace: Workspace, rescore: bool) -> PreparedSearch:
    space = SearchSpace(config.space, config.plugins)
    start = _starting_points(config, space)
    study = plan_study(config, workspace, rescore)
    if workspace.split.exists():  # the workers, which read the images, are not heard
        say(open_images(config.data, config.space.in_channels, workspace.split).notes)
    evaluator = SupernetEvaluator(
        config,
        workspace,
        study.context["fingerprint"],
        study.context["reference_ms"],
        study.known,
        study.context.get("targets", {}),
        study.context.get("units", {}),
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
    console.print(profile_table(profile))
    check_feasible(profile)
    calculated: dict[str, Callable[[Architecture], float]] = dict(tables)
    for name in goal_of(config).metrics:
        made = describe_metric(name).table(space, config.latency, resolve_device(config.device))
        if made is not None:
            calculated[name] = made
    return PreparedSearch(config, workspace, space, study, evaluator, start, calculated, features)


@dataclass(frozen=True)
class PreparedSearch:
    """A search that may begin or go on; see `prepare_search`."""

    config: Config
    workspace: Workspace
    space: SearchSpace
    study: StudyPlan
    evaluator: SupernetEvaluator
    start: list[Architecture]
    calculated: Known  # metrics that need not be measured
    features: Features

    def run(self, tracker: Tracker | None = None) -> SearchResult:
        """Run or resume the study, verify or confirm its front and report it.

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
        predicted: Mapping[Architecture, Verified] = {}
        networks: list[VerifiedNetwork] = []
        with targets_reachable(self.config):
            if self.config.search.verify:
                result, networks = self._verify(result, tracker)
            else:
                result = self._confirm(result, tracker)
        if not networks:
            predicted = predict_verified(result, self.space, self.workspace.retrained)
        account = self._account(result, networks)
        with copied() as said:
            console.print(front_table(result, predicted))
            for sentence in [*account.sentences, *time_predictions(result, self.space)]:
                console.print(sentence, highlight=False)
        report = self.workspace.report
        files = write_report(result, self.space, report, predicted, networks, account)
        write_atomically(self.workspace.summary, said.getvalue())
        described = describe_search(result.front, account)
        note_for_dashboard(result, described)
        if tracker is not None:
            for file in files:
                if file.parent == report:
                    tracker.artifact(file, "report")
            tracker.artifact(report / "front", "report/front")
            track_front(tracker, result.front, report / "front")
            tracker.describe(described)
        if all(member.state == "infeasible" for member in result.front):
            raise UserError(
                f"search.constraints: {result.note}. Relax the bounds or search longer; what was "
                f"measured is in {self.workspace.report}"
            )
        if result.note:
            console.print(result.note)
        return result

    def _account(self, result: SearchResult, networks: Sequence[VerifiedNetwork]) -> Account:
        trained = [network.reported for network in networks if network.finished]
        compared = trained or [r for r in result.trials if r.state == "complete"]
        found = verdict(compared, functools.partial(is_plain, self.space))
        fingerprint = self.study.context["fingerprint"]
        known = (fingerprint.get("device"), fingerprint.get("runtime"))
        return Account(
            verdict=found,
            said=tuple(filter(None, [readings(result), agreement(trained, self.space)])),
            directory=self.workspace.directory,
            measured_on=", ".join(str(value) for value in known if value),
            curves=self.workspace.history.with_name("curves.png"),
        )

    def _search(self, tracker: Tracker | None) -> SearchResult:
        search, goal, study = self.config.search, goal_of(self.config), self.study
        if study.aside:
            set_aside(study.url, study.name, study.aside)
            if tracker is not None:
                tracker.retire(("trial-", "verify-"), "scored with an earlier supernet")

        pace = Pace(KEPT_S)

        def on_trial(record: TrialRecord, progress: SearchProgress) -> None:
            if pace.is_due() or progress.done == progress.total:
                note(describe(progress))
            if tracker is not None:
                track_trial(tracker, record)
                track_progress(tracker, progress)

        if tracker is not None:
            tracker.tags({"fingerprint": self.study.context["fingerprint"]})
        result = run_search(
            self.space,
            self.evaluator,
            goal.objectives,
            trials=max(search.trials, len(study.rescored)),
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
            timeout_s=search.timeout_s or None,
            start=[*self.start, *study.rescored],
            known={n: self.calculated[n] for n in goal.metrics if n in self.calculated},
            racing=search.racing,
            features=self.features,
            on_trial=on_trial,
            progress=True,
        )
        if tracker is not None:
            track_trials(tracker, result.trials)
        return result

    def _verify(
        self, result: SearchResult, tracker: Tracker | None
    ) -> tuple[SearchResult, list[VerifiedNetwork]]:
        """Train what is most promising alone; return the front of that, and all of it."""
        plain = PlainNetworks(
            self.space, self.workspace.verified / "plain.json", self.evaluator.profile
        )
        try:
            plan = self._plan_verification(result, plain)
        except NothingToVerify as reason:
            console.print(f"Nothing is verified: {reason}.", highlight=False)
            return self._confirm(result, tracker), []
        console.print(f"{plan}.", highlight=False)
        new = not (self.workspace.report / VERIFIED_TABLE).exists()

        def on_trained(entrant: Entrant, rung: int, trained: Mapping[str, float]) -> None:
            nonlocal new
            new = True
            if tracker is not None:
                record = plan.records[entrant.architecture]
                track_training(tracker, record, rung, trained, entrant.plain)

        networks = plan.train(on_trained)
        finished = sum(network.finished for network in networks)
        with self._measured_again("Verified networks", finished, tracker, plain) as store:
            result, networks = confirm_verified(result, networks, self.evaluator.again, store)
        if tracker is not None:
            for network in networks:
                if new or not has_tracked(tracker, network):
                    track_verified(tracker, network)
        return result, networks

    def _plan_verification(self, result: SearchResult, plain: PlainNetworks) -> Verification:
        reading = reading_of(result.goal)
        if reading is None:
            raise NothingToVerify("accuracy is no objective")
        macs = self.calculated["macs"]
        candidates = promising(
            self.space,
            result,
            plain,
            reading=reading,
            macs=macs,
            features=self.features,
            seed=self.config.seed,
        )
        return plan_verification(
            self.config,
            self.workspace,
            candidates,
            macs=macs,
            supernet=self.study.context["supernet"],
        )

    def _confirm(self, result: SearchResult, tracker: Tracker | None) -> SearchResult:
        """Measure the front a second time."""
        with self._measured_again("Front", len(result.front), tracker) as store:
            return confirm_front(result, self.evaluator.again, store)

    @contextlib.contextmanager
    def _measured_again(
        self, what: str, count: int, tracker: Tracker | None, plain: PlainNetworks | None = None
    ) -> Iterator[Callable[[TrialRecord], None]]:
        """Give what keeps a second measurement: it reaches the study and MLflow.

        That of a plain network which no trial is about is kept where the first one is.
        """
        done = itertools.count(1)
        with step_progress(f"{what}, measured again", count) as advance:

            def store(record: TrialRecord) -> None:
                if record.number < 0 and plain is not None:
                    plain.keep(record)
                else:
                    store_again(self.study.url, self.study.name, record.number, record.again)
                    if tracker is not None:
                        track_again(tracker, record)
                advance(next(done), "")

            yield store


def _starting_points(config: Config, space: SearchSpace) -> list[Architecture]:
    """The hand-made networks that are asked for, and those with one candidate throughout.

    With the plain networks among the first, no search misses the baseline it will be compared
    with. They take a quarter of the trials at most.
    """
    points = []
    for name in config.search.start:
        source, architecture = named_architecture(name, config.plugins)
        try:
            points.append(translate(architecture, source, space))
        except UserError as error:
            raise UserError(f"search.start: {name!r} is not in the space: {error}") from None
    return points + uniform_architectures(space)[: config.search.trials // 4]
