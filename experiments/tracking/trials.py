"""What MLflow keeps of trials and of the networks that are verified: one child run each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.reporting.verified import READING, VerifiedNetwork
from search import SearchProgress, TrialRecord
from search.study import parameters_of

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def track_trials(tracker: Tracker, records: list[TrialRecord]) -> None:
    """Log those that an interrupted run finished but could not track."""
    for record in records:
        if not tracker.has_finished(_trial_name(record)):
            track_trial(tracker, record)


def track_trial(tracker: Tracker, record: TrialRecord) -> None:
    """Log a trial."""
    choices = parameters_of(record.architecture)
    tags = {"state": record.state, "message": record.message[:500]}
    with tracker.child(_trial_name(record), "trial", params=choices, tags=tags) as child:
        child.metrics({**record.metrics, "seconds": record.seconds})


def track_again(tracker: Tracker, record: TrialRecord) -> None:
    """Log second values as the next step of the first ones."""
    if record.number >= 0:
        with tracker.child(_trial_name(record), "trial") as child:
            child.metrics(record.again, step=1)


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


def _trial_name(record: TrialRecord) -> str:
    return f"trial-{record.number}"


def _verify_name(record: TrialRecord) -> str:
    return f"verify-{record.number}" if record.number >= 0 else f"verify-plain-{-record.number}"
