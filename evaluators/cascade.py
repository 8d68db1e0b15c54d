"""From cheap to expensive: the order in which an architecture's metrics are measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from configs.errors import Stopped
from evaluators.device_lock import shared_device
from evaluators.metric import METRICS, TIMED, Metric, metrics_among
from evaluators.subject import Subject


def in_order(names: Iterable[str]) -> list[Metric]:
    """Return registered metrics by effort, and of equal effort those last that can race.

    A race needs to know the rest. Equal ones are in the order of their registration.

    Raises:
        UserError: A name is not registered.
    """
    registered = metrics_among(METRICS[name].name for name in names)
    return sorted(registered, key=lambda metric: (metric.effort, metric.race is not None))


def measure_in_order(
    subject: Subject,
    names: Iterable[str],
    enough: Callable[[Mapping[str, float]], bool],
    known: Mapping[str, float] = MappingProxyType({}),
    rival: Callable[[str, Mapping[str, float]], tuple[str, float] | None] = lambda *_: None,
) -> dict[str, float]:
    """Measure metrics from cheap to expensive until the values so far are enough.

    What is timed takes the device exclusively by itself; everything else holds it shared.

    Args:
        names: Registered metrics.
        enough: Says of the values so far that the rest is not worth its price, as where a bound is
            exceeded. Asked between efforts, so all metrics of equal effort are there together.
        known: Values of an earlier measurement of this network, with companions: what is among
            them is not measured again.
        rival: For a metric and the values so far, who has to be reached in it, in words, and the
            value to reach; None where nobody has.

    Returns:
        The values by name, with companions; the expensive ones are missing where it stopped.

    Raises:
        UserError: A metric does not exist or gives no finite number.
        TooNoisy: The device was too busy for a measurement.
        Stopped: The architecture cannot reach its rival; with the values so far.
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
        name, to_reach = rival(metric.name, values) or ("", None)
        with contextlib.ExitStack() as held:
            for device in () if timed else (subject.device, *subject.timed_devices):
                held.enter_context(shared_device(device))
            try:
                values |= metric.values(subject, to_reach)
            except Stopped as stop:
                raise Stopped(f"{stop}; {name} is better", {**values, **stop.metrics}) from None
    return values
