"""Did hybrids win? One sentence from what a search knows, before anything is retrained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evaluators.metric import describe_metric
from experiments.reporting.front import cost_of
from search.trials import INHERITED, TrialRecord
from search_space import Architecture

SURE = 2.0  # standard errors of a difference, below which it is said to be within the noise


def verdict(records: Sequence[TrialRecord], plain: Callable[[Architecture], bool]) -> str:
    """Compare the most accurate hybrid with the most accurate plain network.

    Args:
        records: With accuracies of one kind: all trained alone, or none.
        plain: Whether an architecture has one candidate throughout, at any depth; others are
            hybrids.

    Returns:
        A sentence or two; empty where accuracy is known of no plain network.
    """
    known = [record for record in records if "accuracy" in record.metrics]
    ours = [record for record in known if not plain(record.architecture)]
    theirs = [record for record in known if plain(record.architecture)]
    if not theirs:
        return ""
    if not ours:
        best = max(theirs, key=_accuracy)
        return (
            f"No hybrid wins: none is among the {len(known)} networks compared, of which "
            f"{_named(best, cost_of([best]))} is the most accurate."
        )
    hybrid, rival = (max(group, key=_accuracy) for group in (ours, theirs))
    gap = _accuracy(hybrid) - _accuracy(rival)
    error = math.hypot(_error(hybrid), _error(rival))
    if abs(gap) < SURE * error:
        head = "Hybrids neither win nor lose"
    else:
        head = "A hybrid wins" if gap > 0 else "No hybrid wins"
    cost = cost_of([hybrid, rival])
    text = f"{head}: the most accurate one, {_named(hybrid, cost)}, has {gap:+.1f} ± {error:.1f} "
    text += f"points{_dearer(hybrid, rival, cost)} against the best plain network, "
    text += f"{_named(rival, cost)}."
    if any(f"{INHERITED}accuracy" not in record.metrics for record in (hybrid, rival)):
        text += " These accuracies are read with inherited weights, which rank only roughly."
    return text


def _accuracy(record: TrialRecord) -> float:
    return record.metrics["accuracy"]


def _error(record: TrialRecord) -> float:
    return describe_metric("accuracy").error(record.metrics) or 0.0


def _named(record: TrialRecord, cost: str | None) -> str:
    names = sorted(set(record.architecture))
    name = f"{names[0]} throughout" if len(names) == 1 else " ".join(record.architecture)
    figures = [describe_metric("accuracy").text(_accuracy(record))]
    if cost is not None:
        figures.append(describe_metric(cost).text(record.metrics[cost]))
    return f"{name} ({', '.join(figures)})"


def _dearer(hybrid: TrialRecord, rival: TrialRecord, cost: str | None) -> str:
    if cost is None or rival.metrics[cost] <= 0:
        return ""
    share = hybrid.metrics[cost] / rival.metrics[cost] - 1
    how = "more" if share > 0 else "less"
    return f" at {abs(share):.0%} {how} {describe_metric(cost).label}"
