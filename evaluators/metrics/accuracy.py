"""Accuracy and cross entropy: both are read from the same answers, all of them or as in a race."""

from __future__ import annotations

import math
from collections.abc import Callable

from configs.errors import Stopped
from evaluators.accuracy import Reading, accuracy_error, read_all
from evaluators.metric import EVALUATED, Values, register_metric
from evaluators.racing import cannot_reach, stays_above
from evaluators.subject import Subject


def _accuracy_error(values: Values) -> float | None:
    """The binomial standard error, see `accuracy_error`."""
    if "accuracy_images" not in values:
        return None
    return accuracy_error(values["accuracy"], round(values["accuracy_images"]))


def _answers(subject: Subject) -> Values:
    """Return what a calibrated network answers to the validation images."""
    return _values(read_all(subject.read_by_batch(subject.calibrated, subject.data.validation)))


def _race(subject: Subject, out_of_reach: Callable[[Reading, int, int], bool]) -> Values:
    """Read batch by batch, as long as it is worth it.

    Args:
        out_of_reach: Says of what was read so far, of the number of all images, and of how often it
            is asked at most, that the rest need not be read.

    Raises:
        Stopped: It was out of reach.
    """
    validation = subject.data.validation
    total, looks = validation.images, max(len(validation) - 1, 1)
    batches = subject.read_by_batch(subject.calibrated, validation)
    reading = read_all(batches, lambda sums: out_of_reach(sums, total, looks))
    if reading.images < total:
        raise Stopped(f"{reading.correct} of {reading.images} images right", _values(reading))
    return _values(reading)


def _values(reading: Reading) -> Values:
    return {
        "accuracy": reading.accuracy,
        "accuracy_images": reading.images,
        "cross_entropy": reading.cross_entropy,
        "cross_entropy_deviation": reading.deviation,
    }


def _accuracy_race(subject: Subject, to_reach: float) -> Values:
    """Read batch by batch, and stop once the accuracy cannot reach another, see `cannot_reach`."""

    def out_of_reach(reading: Reading, total: int, looks: int) -> bool:
        needed = round(to_reach * total / 100)
        return cannot_reach(reading.correct, reading.images, needed, total, looks)

    return _race(subject, out_of_reach)


def _cross_entropy_race(subject: Subject, to_reach: float) -> Values:
    """Read batch by batch, and stop once it cannot come down to another, see `stays_above`."""
    return _race(
        subject, lambda reading, total, looks: stays_above(reading, to_reach, total, looks)
    )


def _cross_entropy_error(values: Values) -> float | None:
    """The standard error of the mean."""
    if "cross_entropy_deviation" not in values:
        return None
    return values["cross_entropy_deviation"] / math.sqrt(values["accuracy_images"])


@register_metric(
    "accuracy",
    label="accuracy",
    unit="%",
    direction="maximize",
    effort=EVALUATED,
    write="{:.2f}".format,
    error=_accuracy_error,
    companions=("accuracy_images", "cross_entropy", "cross_entropy_deviation"),
    ceiling=100.0,
    race=_accuracy_race,
)
def accuracy(subject: Subject) -> Values:
    """Top-1 accuracy on validation images, batch norms recalibrated; with the images' number."""
    return _answers(subject)


@register_metric(
    "cross_entropy",
    label="cross entropy",
    direction="minimize",
    effort=EVALUATED,
    write="{:.3f}".format,
    error=_cross_entropy_error,
    companions=("cross_entropy_deviation", "accuracy", "accuracy_images"),
    stands_for="accuracy",
    race=_cross_entropy_race,
)
def cross_entropy(subject: Subject) -> Values:
    """Mean cross entropy on the same images, in nats.

    With inherited weights it ranks architectures much better than the accuracy does
    (docs/ranking.md), and comes with the accuracy.
    """
    return _answers(subject)
