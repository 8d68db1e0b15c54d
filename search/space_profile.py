"""What a space costs, before it is searched: the range of each cheap metric, and its bounds."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import TooNoisy, UserError
from search.goal import Goal
from search.layer_tables import Measure, layer_tables

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

Found = dict["Architecture", dict[str, float]]


@dataclass(frozen=True)
class MetricRange:
    """Smallest, median and largest value of one metric."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class SpaceProfile:
    """The cheap metrics of a space, as far as they were measured.

    `feasible` is the share of the `samples` random architectures within all bounds, 0 to 1;
    `measured` counts all architectures that were measured. Of the metrics in `exact` the smallest
    and the largest value are those of the whole space, of others those that were found.
    """

    ranges: dict[str, MetricRange]
    bounds: dict[str, float]
    feasible: float
    samples: int
    measured: int
    exact: frozenset[str] = frozenset()


def profile_space(
    space: ChoiceSpace,
    measure: Measure,
    goal: Goal,
    *,
    sums: Measure | None = None,
    samples: int = 16,
    seed: int = 0,
) -> SpaceProfile:
    """Measure random architectures, and such as are likely at the ends of the ranges.

    The latter do not count for the medians and for the feasible share: the architectures that take
    one candidate wherever they can, and the smallest and largest in each metric of `sums`. Where
    none of all these keeps a bound, the nearest is improved layer by layer until one does.
    Architectures that the device is too busy to measure are left out.

    Args:
        measure: Gives the cheap metrics of an architecture; the same ones each time.
        goal: Whose bounds are asked; each must be on a cheap metric (`Goal.bounded_by`).
        sums: Gives those of the cheap metrics that are sums over the layers, such as params, and
            costs little. Their ends are then exact: trying one candidate at a time finds them.
        samples: How many random architectures; fewer where the space has fewer.

    Raises:
        UserError: A bound is set on a metric that is not measured, a value is not finite, or
            nothing could be measured.
    """
    rng = np.random.default_rng(seed)
    random: dict[Architecture, None] = {}
    for _ in range(20 * samples):  # repetitions included
        if len(random) < samples:
            random[space.canonical(space.sample(rng))] = None
    ends = {} if sums is None else _ends(space, sums)
    likely = itertools.chain.from_iterable(ends.values())
    found: Found = {}
    for architecture in dict.fromkeys([*random, *uniform_architectures(space), *likely]):
        _add(found, architecture, measure, goal)
    drawn = [found[architecture] for architecture in random if architecture in found]
    if not drawn:
        raise UserError(
            f"none of {len(random)} architectures could be measured: the device is too busy. "
            "Stop what else runs on it, or raise latency.max_spread"
        )
    for name, bound in goal.bounds.items():
        if name not in ends:
            _descend(space, found, name, bound, measure, goal)
    feasible = [not goal.exceeded(metrics) for metrics in drawn]
    values = {name: [metrics[name] for metrics in found.values()] for name in drawn[0]}
    for name, pair in ends.items():  # also where the device was too busy to measure one of them
        values[name] += pair.values()
    return SpaceProfile(
        ranges={
            name: MetricRange(
                smallest=min(values[name]),
                median=float(np.median([metrics[name] for metrics in drawn])),
                largest=max(values[name]),
            )
            for name in values
        },
        bounds=dict(goal.bounds),
        feasible=sum(feasible) / len(feasible),
        samples=len(drawn),
        measured=len(found),
        exact=frozenset(ends),
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
    """Refuse a bound that nothing keeps, or that nothing was found to keep.

    Raises:
        UserError: Names the constraint and the range, and says which of the two it is.
    """
    for name, bound in profile.bounds.items():
        found = profile.ranges[name]
        if bound >= found.smallest:
            continue
        if name in profile.exact:
            what = (
                f"can't be met; the architectures of this space lie between {found.smallest:.6g} "
                f"and {found.largest:.6g}"
            )
        else:
            what = (
                f"no architecture that keeps it was found; {profile.measured} were measured, "
                f"between {found.smallest:.6g} and {found.largest:.6g}"
            )
        raise UserError(
            f"constraints.{name}: {bound:.6g}: {what} (median {found.median:.6g}, "
            f"{profile.samples} sampled). Raise the bound above {found.smallest:.6g}, or add "
            "cheaper candidates to the space"
        )


def _ends(space: ChoiceSpace, sums: Measure) -> dict[str, dict[Architecture, float]]:
    """Return for each metric that is a sum over layers its smallest and largest architectures."""
    return {
        name: {space.canonical(end): table(end) for end in (table.smallest, table.largest)}
        for name, table in layer_tables(space, sums).items()
    }


def _descend(
    space: ChoiceSpace, found: Found, name: str, bound: float, measure: Measure, goal: Goal
) -> None:
    """Improve the best architecture found in a metric, one layer at a time, until it keeps a bound.

    One pass over the layers, each change kept that is better; for metrics that are no sums over the
    layers that is no proof.
    """
    best = min(found, key=lambda architecture: found[architecture][name])
    for index, layer in enumerate(space.layers):
        for candidate in layer.candidates:
            if found[best][name] <= bound:
                return
            changed = space.canonical((*best[:index], candidate, *best[index + 1 :]))
            _add(found, changed, measure, goal)
            if changed in found and found[changed][name] < found[best][name]:
                best = changed


def _add(found: Found, architecture: Architecture, measure: Measure, goal: Goal) -> None:
    """Measure an architecture that has not been measured yet, if the device lets it."""
    if architecture not in found:
        with contextlib.suppress(TooNoisy):
            found[architecture] = _measured(measure, architecture, goal)


def _measured(measure: Measure, architecture: Architecture, goal: Goal) -> dict[str, float]:
    metrics = {name: float(value) for name, value in measure(architecture).items()}
    for name in goal.bounds:
        if name not in metrics:
            given = ", ".join(metrics)
            raise UserError(f"constraints.{name}: not among the cheap metrics ({given})")
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(f"metric {name!r} is {value}; a finite number is needed")
    return metrics
