"""Latency: timed on the device of the evaluation, or on a target."""

from __future__ import annotations

from evaluators.metric import TIMED, Values, register_metric
from evaluators.subject import Subject


def _latency_error(values: Values) -> float | None:
    """Half the interquartile range of the timed calls."""
    if "latency_spread" not in values:
        return None
    return values["latency_ms"] * values["latency_spread"] / 2


@register_metric(
    "latency_ms",
    label="latency",
    unit="ms",
    direction="minimize",
    effort=TIMED,
    write="{:.3g}".format,
    error=_latency_error,
    companions=("latency_spread", "latency_reference_ms"),
    on_targets=True,
)
def latency_ms(subject: Subject) -> Values:
    """Median time of a forward pass, see `measure_latency`; with its relative spread and unit."""
    latency = subject.time(subject)
    return {
        "latency_ms": latency.median_ms,
        "latency_spread": latency.spread,
        "latency_reference_ms": latency.reference_ms,
    }
