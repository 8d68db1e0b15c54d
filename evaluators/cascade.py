"""From cheap to expensive: the order in which an architecture's metrics are measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from evaluators.device_lock import shared_device
from evaluators.metrics import METRICS, TIMED, Metric, Subject


def in_order(names: Iterable[str]) -> list[Metric]:
    """Return registered metrics by effort; equal ones in the order of their registration.

    Raises:
        UserError: A name is not registered.
    """
    wanted = {METRICS[name].name for name in names}
    return sorted((METRICS[name] for name in METRICS if name in wanted), key=lambda m: m.effort)


def measure_in_order(
    subject: Subject,
    names: Iterable[str],
    enough: Callable[[Mapping[str, float]], bool],
    known: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Measure metrics from cheap to expensive until the values so far are enough.

    What is timed takes the device exclusively by itself; everything else holds it shared.

    Args:
        names: Registered metrics.
        enough: Says of the values so far that the rest is not worth its price, as where a bound is
            exceeded. Asked between efforts, so all metrics of equal effort are there together.
        known: Values of an earlier measurement of this network, with companions: what is among
            them is not measured again.

    Returns:
        The values by name, with companions; the expensive ones are missing where it stopped.

    Raises:
        UserError: A metric does not exist or gives no finite number.
        TooNoisy: The device was too busy for a measurement.
    """
    metrics = in_order(names)
    wanted = {name for metric in metrics for name in (metric.name, *metric.companions)}
    values = {name: value for name, value in known.items() if name in wanted}
    effort = None
    for metric in metrics:
        if metric.effort != effort and values and enough(values):
            break
        effort = metric.effort
        if metric.name in values:
            continue
        timed = metric.effort == TIMED
        with contextlib.nullcontext() if timed else shared_device(subject.device):
            values |= metric.values(subject)
    return values
