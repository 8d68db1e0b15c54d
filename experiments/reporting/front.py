"""The front of a search as it was reported, and picking a member of it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from experiments.reporting.metric_text import COSTS
from search.trials import TrialRecord


def read_front(report: Path) -> list[TrialRecord]:
    """Return the front that a search reported, from its ``front.csv``.

    Raises:
        UserError: There is no report.
    """
    path = report / "front.csv"
    if not path.exists():
        raise UserError(f"{path}: no front there; run `evolute search` first")
    fixed = ("index", "number", "state", "seconds", "architecture", "message")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            TrialRecord(
                number=int(row["number"]),
                architecture=tuple(row["architecture"].split()),
                metrics={k: float(v) for k, v in row.items() if k not in fixed and v},
                state="complete",
            )
            for row in csv.DictReader(file)
        ]


def pick(front: Sequence[TrialRecord], choice: str | int) -> TrialRecord:
    """Return a member of the front: ``best``, ``knee``, or its index.

    ``best`` has the highest accuracy; without accuracies it is the first member, which is the best
    in the first objective. ``knee`` is where more accuracy begins to cost much: of latency (else
    MACs, parameters, memory) and accuracy, each scaled to the front's range, it is the member
    farthest above the straight line from the cheapest member to the most accurate one. No unit or
    scale changes it; a front without such a member (two points, or bent inwards) gives ``best``.

    Raises:
        UserError: It is anything else; the message names what can be picked.
    """
    if not front:
        raise UserError("--pick: the front is empty; no architecture can be picked")
    if choice == "best":
        return max(front, key=lambda record: record.metrics.get("accuracy", -math.inf))
    if choice == "knee":
        return _knee(front)
    if re.fullmatch(r"\d+", str(choice)) and int(choice) < len(front):
        return front[int(choice)]
    raise UserError(
        f"--pick: {choice!r} is no member of the front; choose best, knee or an index from 0 to "
        f"{len(front) - 1}"
    )


def _knee(front: Sequence[TrialRecord]) -> TrialRecord:
    best = pick(front, "best")
    cost = next((c for c in COSTS if all(c in record.metrics for record in front)), None)
    if cost is None or any("accuracy" not in record.metrics for record in front):
        return best
    cheapest = min(front, key=lambda record: record.metrics[cost])
    price = best.metrics[cost] - cheapest.metrics[cost]
    gain = best.metrics["accuracy"] - cheapest.metrics["accuracy"]
    if price <= 0 or gain <= 0:
        return best

    def above_the_line(record: TrialRecord) -> float:
        accuracy = (record.metrics["accuracy"] - cheapest.metrics["accuracy"]) / gain
        return accuracy - (record.metrics[cost] - cheapest.metrics[cost]) / price

    knee = max(front, key=above_the_line)
    return knee if above_the_line(knee) > 1e-9 else best
