"""What MLflow keeps of trials and of the networks that are verified: one child run each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.metric import metrics_among
from experiments.reporting.verified import READING, VerifiedNetwork
from experiments.tracking.view import NOTE
from search import SearchProgress, TrialRecord
from search.study import parameters_of
from search.trials import INHERITED

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def track_trials(tracker: Tracker, records: list[TrialRecord]) -> None:
    """Log those that an interrupted run finished but could not track."""
    for record in records:
        if not tracker.has_finished(_trial_name(record)):
            track_trial(tracker, record)


def track_trial(tracker: Tracker, record: TrialRecord) -> None:
    """Log a trial."""
    choices, name = parameters_of(record.architecture), _trial_name(record)
    tags = {"state": record.state, NOTE: describe(record)}
    if record.message:
        tags["message"] = record.message[:500]
    with tracker.child(name, "trial", choices, tags, seconds=record.seconds) as child:
        child.metrics(_registered(record.metrics))


def track_front(tracker: Tracker, front: Sequence[TrialRecord], folder: Path) -> None:
    """Tag the runs of networks on the front with their index, and no others.

    Args:
        folder: With a folder of files for each member, by its index, that its runs get too.
    """
    members = {
        name: (index, record)
        for index, record in enumerate(front)
        for name in (_trial_name(record), _verify_name(record))
    }
    for name in sorted(tracker.tagged("front") - members.keys()):
        if child := tracker.finished_child(name):
            child.tags({"front": ""})
    for name, (index, record) in members.items():
        if child := tracker.finished_child(name):
            child.tags({"front": index})
            child.describe(f"{describe(record)} | on the front, index {index}")
            for file in sorted((folder / str(index)).iterdir()):
                child.copy(file)


def describe(record: TrialRecord) -> str:
    """Return a line on a network: its operators, its state, how and what was measured."""
    metrics = metrics_among(record.metrics)
    shown = [f"{metric.label} {metric.text(record.metrics[metric.name])}" for metric in metrics]
    said: list[str] = [] if record.state == "complete" else [record.state]
    if any(name.startswith(INHERITED) for name in record.metrics):
        said.append("trained alone")
    return " | ".join([" ".join(record.architecture), *said, *shown])


def track_again(tracker: Tracker, record: TrialRecord) -> None:
    """Log second values as the next step of the first ones."""
    if child := tracker.finished_child(_trial_name(record)):
        child.metrics(_registered(record.again), step=1)


def track_progress(tracker: Tracker, progress: SearchProgress) -> None:
    """Log how far a search is, in the parent run."""
    values: dict[str, float] = {"front_size": progress.front_size}
    values |= {f"best_{name}": value for name, value in progress.best.items()}
    if progress.hypervolume is not None:
        values["hypervolume"] = progress.hypervolume
    tracker.metrics(values, step=progress.done)


def track_training(
    tracker: Tracker, record: TrialRecord, rung: int, trained: Mapping[str, float], plain: bool
) -> None:
    """Log a training of a network that is being verified, as a step of its run."""
    choices, tags = parameters_of(record.architecture), {"state": "training", "plain": plain}
    with tracker.child(_verify_name(record), "verify", params=choices, tags=tags) as child:
        costs = {k: v for k, v in record.metrics.items() if k not in READING}
        child.metrics({**costs, **trained}, step=rung)


def track_verified(tracker: Tracker, network: VerifiedNetwork) -> None:
    """Log what became of a network, and what is reported of it."""
    record = network.reported
    choices = parameters_of(record.architecture)
    tags = {"state": network.state, "plain": network.plain}
    with tracker.child(_verify_name(record), "verify", params=choices, tags=tags) as child:
        child.metrics(record.metrics, step=network.rung)


def has_tracked(tracker: Tracker, network: VerifiedNetwork) -> bool:
    """Return whether a network has a run already."""
    return tracker.has_finished(_verify_name(network.record))


def _registered(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what goes with a metric, such as how often it was measured."""
    return {metric.name: metrics[metric.name] for metric in metrics_among(metrics)}


def _trial_name(record: TrialRecord) -> str:
    return f"trial-{record.number}"


def _verify_name(record: TrialRecord) -> str:
    return f"verify-{record.number}" if record.number >= 0 else f"verify-plain-{-record.number}"
