"""How pictures, tables and pages name the metrics, order them and write their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from search.trials import TrialRecord

LABELS = {  # name -> label of an axis, in the order of columns
    "accuracy": "accuracy (%)",
    "latency_ms": "latency (ms)",
    "params": "parameters",
    "macs": "MACs",
    "memory_mb": "memory (MB)",
}
HEADS = {"latency_ms": "latency (ms)", "macs": "MACs", "memory_mb": "memory (MB)"}  # of a table
SHORT = {"latency_ms": "latency", "macs": "MACs"}  # above a column whose values have units
COUNTS = ("params", "macs")  # written with k, M or G on an axis
COSTS = ("latency_ms", "macs", "params", "memory_mb")  # what a knee weighs accuracy against
UNDRAWN = ("memory_mb",)  # not beside the strips of the architectures


def known_metrics(records: Sequence[TrialRecord]) -> list[str]:
    """Return the metrics with a label that some record has, in the order of columns."""
    return [name for name in LABELS if any(name in record.metrics for record in records)]


def all_metrics(records: Sequence[TrialRecord]) -> list[str]:
    """Return every metric that some record has: those with a label first, then by name."""
    found = {name for record in records for name in record.metrics}
    return known_metrics(records) + sorted(found - LABELS.keys())


def short_number(value: float) -> str:
    """Return a count for people: 1234567 -> 1.23M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def metric_text(name: str, value: float) -> str:
    """Return a metric's value with its unit."""
    if name == "accuracy":
        return f"{value:.2f}%"
    if name.endswith("_ms"):
        return f"{value:.3g} ms"
    return short_number(value)


def table_text(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric's value for a column whose head has the unit; empty where it is missing.

    The ± behind a latency is half the interquartile range of its measurement.
    """
    value = metrics.get(name)
    if value is None:
        return ""
    if name == "latency_ms":
        digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2
        spread = metrics.get("latency_spread")  # interquartile range / median
        error = f" ± {value * spread / 2:.{digits}f}" if spread is not None else ""
        return f"{value:.{digits}f}{error}"
    return f"{value:.2f}" if name == "accuracy" else metric_text(name, value)
