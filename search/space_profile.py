"""What a space costs, before it is searched: the range of each cheap metric over random members."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import TooNoisy, UserError
from search.goal import Goal

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace


@dataclass(frozen=True)
class MetricRange:
    """Smallest, median and largest value of one metric."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class SpaceProfile:
    """The cheap metrics of a sample of a space.

    `feasible` is the share of the `samples` random architectures within all bounds, 0 to 1.
    """

    ranges: dict[str, MetricRange]
    bounds: dict[str, float]
    feasible: float
    samples: int


def profile_space(
    space: ChoiceSpace,
    measure: Callable[[Architecture], Mapping[str, float]],
    goal: Goal,
    *,
    samples: int = 16,
    seed: int = 0,
) -> SpaceProfile:
    """Measure random architectures, and those that take one candidate wherever they can.

    The latter are there for the ends of the ranges, which random architectures seldom reach; they
    do not count for the medians and for the feasible share. Architectures that the device is too
    busy to measure are left out.

    Args:
        measure: Gives the cheap metrics of an architecture; the same ones each time.
        goal: Whose bounds are asked; each must be on a cheap metric (`Goal.bounded_by`).
        samples: How many random architectures; fewer where the space has fewer.

    Raises:
        UserError: A bound is set on a metric that is not measured, a value is not finite, or
            nothing could be measured.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[Architecture, None] = {}
    for _ in range(20 * samples):  # repetitions included
        if len(drawn) < samples:
            drawn[space.canonical(space.sample(rng))] = None
    random = _measure_all(measure, drawn, goal)
    uniform = _measure_all(
        measure, [a for a in uniform_architectures(space) if a not in drawn], goal
    )
    if not random:
        raise UserError(
            f"none of {len(drawn)} architectures could be measured: the device is too busy. "
            "Stop what else runs on it, or raise latency.max_spread"
        )
    every = [*random, *uniform]
    feasible = [not goal.exceeded(metrics) for metrics in random]
    return SpaceProfile(
        ranges={
            name: MetricRange(
                smallest=min(metrics[name] for metrics in every),
                median=float(np.median([metrics[name] for metrics in random])),
                largest=max(metrics[name] for metrics in every),
            )
            for name in every[0]
        },
        bounds=dict(goal.bounds),
        feasible=sum(feasible) / len(feasible),
        samples=len(random),
    )


def uniform_architectures(space: ChoiceSpace) -> list[Architecture]:
    """Return for each candidate name the architecture that uses it in every layer that offers it.

    The other layers take their first candidate.
    """
    names = dict.fromkeys(name for layer in space.layers for name in layer.candidates)
    found = dict.fromkeys(
        space.canonical(
            tuple(
                name if name in layer.candidates else layer.candidates[0] for layer in space.layers
            )
        )
        for name in names
    )
    return list(found)


def check_feasible(profile: SpaceProfile) -> None:
    """Refuse a bound below everything that was measured.

    Raises:
        UserError: Names the constraint and the measured range.
    """
    for name, bound in profile.bounds.items():
        found = profile.ranges[name]
        if bound < found.smallest:
            raise UserError(
                f"constraints.{name}: {bound:.6g} can't be met; the architectures of this space "
                f"lie between {found.smallest:.6g} and {found.largest:.6g} (median "
                f"{found.median:.6g}, {profile.samples} sampled). Raise the bound above "
                f"{found.smallest:.6g}, or add cheaper candidates to the space"
            )


def _measure_all(
    measure: Callable[[Architecture], Mapping[str, float]],
    architectures: Iterable[Architecture],
    goal: Goal,
) -> list[dict[str, float]]:
    values = []
    for architecture in architectures:
        with contextlib.suppress(TooNoisy):
            values.append(_measured(measure, architecture, goal))
    return values


def _measured(
    measure: Callable[[Architecture], Mapping[str, float]],
    architecture: Architecture,
    goal: Goal,
) -> dict[str, float]:
    metrics = {name: float(value) for name, value in measure(architecture).items()}
    for name in goal.bounds:
        if name not in metrics:
            given = ", ".join(metrics)
            raise UserError(f"constraints.{name}: not among the cheap metrics ({given})")
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(f"metric {name!r} is {value}; a finite number is needed")
    return metrics
