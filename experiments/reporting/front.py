"""The front of a search as it was reported, and picking a member of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from configs.errors import UserError
from configs.kept import WRONG, reason_of
from evaluators.metric import EVALUATED, Metric, describe_metric, metrics_among
from search.trials import State, TrialRecord

WITHIN = r"fastest-within (\d+(?:\.\d+)?)%"  # points of accuracy


def read_front(report: Path) -> list[TrialRecord]:
    """Return the front that a search reported, from its ``front.csv``.

    Raises:
        UserError: There is no report, or it is damaged.
    """
    path = report / "front.csv"
    if not path.exists():
        raise UserError(f"{path}: no front there; run `evolute search` first")
    return read_records(path)


def read_records(table: Path) -> list[TrialRecord]:
    """Return the records of a ``front.csv``, ``trials.csv`` or ``verified.csv``.

    Raises:
        UserError: It is damaged.
    """
    fixed = ("index", "number", "state", "seconds", "architecture", "message", "rung", "plain")
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            records = [
                TrialRecord(
                    number=int(row["number"]),
                    architecture=tuple(row["architecture"].split()),
                    metrics={k: float(v) for k, v in row.items() if k not in fixed and v},
                    state=cast(State, row["state"]),
                )
                for row in rows
            ]
            if "architecture" not in (rows.fieldnames or ()):
                raise KeyError("architecture")
    except (*WRONG, csv.Error) as error:
        raise UserError(
            f"{table} is damaged ({reason_of(table, error)}); the same `evolute search` writes it "
            "again from its study, without evaluating anything anew"
        ) from None
    return records


def pick(front: Sequence[TrialRecord], choice: str | int) -> TrialRecord:
    """Return a member of the front: ``best``, ``knee``, ``fastest-within N%``, or its index.

    ``best`` is the cheapest of those that are as accurate as the most accurate one, within its
    standard error (the one-standard-error rule of Breiman et al., 1984): what noise has lifted to
    the top costs nothing then. Without accuracies it is the first member, which is the best in the
    first objective. ``knee`` is where more accuracy begins to cost much: of latency (else
    params, MACs, memory) and accuracy, each scaled to the front's range, it is the member farthest
    above the straight line from the cheapest member to the most accurate one. No unit or scale
    changes it; a front without such a member (two points, or bent inwards) gives ``best``.
    ``fastest-within 1%`` is the cheapest of those whose accuracy is at most one point below the
    highest; of the same cost as for the knee.

    Raises:
        UserError: It is anything else; the message names what can be picked.
    """
    if not front:
        raise UserError("--pick: the front is empty; no architecture can be picked")
    if choice == "best":
        return _cheapest_within(front, None)
    if choice == "knee":
        return _knee(front)
    if within := re.fullmatch(WITHIN, str(choice)):
        return _cheapest_within(front, float(within[1]))
    if re.fullmatch(r"\d+", str(choice)) and int(choice) < len(front):
        return front[int(choice)]
    raise UserError(
        f"--pick: {choice!r} is no member of the front; choose best, knee, "
        f"'fastest-within 1%' or an index from 0 to {len(front) - 1}"
    )


def quality_of(records: Sequence[TrialRecord]) -> str | None:
    """Return the first registered metric that all records have and that is better when higher."""
    return _first_common(records, [m.name for m in _measured(records) if m.direction == "maximize"])


def cost_of(records: Sequence[TrialRecord]) -> str | None:
    """Return the cost that all records have: what was measured comes before what was counted."""
    costs = [m for m in _measured(records) if m.direction == "minimize" and m.effort < EVALUATED]
    costs.sort(key=lambda metric: -metric.effort)
    return _first_common(records, [metric.name for metric in costs])


def _measured(records: Sequence[TrialRecord]) -> list[Metric]:
    return metrics_among(name for record in records for name in record.metrics)


def _first_common(records: Sequence[TrialRecord], names: Sequence[str]) -> str | None:
    return next((n for n in names if all(n in record.metrics for record in records)), None)


def _most_accurate(front: Sequence[TrialRecord]) -> TrialRecord:
    quality = quality_of(front)
    return front[0] if quality is None else max(front, key=lambda r: r.metrics[quality])


def _knee(front: Sequence[TrialRecord]) -> TrialRecord:
    best = _most_accurate(front)
    cost, quality = cost_of(front), quality_of(front)
    if cost is None or quality is None:
        return best
    cheapest = min(front, key=lambda record: record.metrics[cost])
    price = best.metrics[cost] - cheapest.metrics[cost]
    gain = best.metrics[quality] - cheapest.metrics[quality]
    if price <= 0 or gain <= 0:
        return best

    def above_the_line(record: TrialRecord) -> float:
        gained = (record.metrics[quality] - cheapest.metrics[quality]) / gain
        return gained - (record.metrics[cost] - cheapest.metrics[cost]) / price

    knee = max(front, key=above_the_line)
    return knee if above_the_line(knee) > 1e-9 else best


def _cheapest_within(front: Sequence[TrialRecord], points: float | None) -> TrialRecord:
    """Return the cheapest of nearly the highest accuracy; None: within its standard error."""
    best = _most_accurate(front)
    cost, quality = cost_of(front), quality_of(front)
    if points is None and quality is not None:
        points = describe_metric(quality).error(best.metrics)
    if cost is None or quality is None or points is None:
        return best
    least = best.metrics[quality] - points
    near = [record for record in front if record.metrics[quality] >= least]
    return min(near, key=lambda record: (record.metrics[cost], -record.metrics[quality]))
