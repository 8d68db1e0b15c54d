"""Finds networks of a given latency: plain ones of each family, and random ones.

Each is measured; a sum over the layers of what was measured says which to measure next.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from search.layer_sums import LayerSums
from search_space import Architecture, SearchSpace

Measure = Callable[[SearchSpace, Architecture], float]  # milliseconds

TOLERANCE = 0.05  # of the latency to match
LOOKS = 8  # networks of a family that are measured, at most, beside its ends; and scales
WIDEST = 4.0  # by what stages are widened or narrowed at most
MULTIPLE = 4  # of which scaled widths are
POOL = 400  # random architectures among which those of the latency are, and as many shallow ones


@dataclass(frozen=True)
class Match:
    """A network near a latency.

    Attributes:
        scale: By what the stage widths of the space that is searched were multiplied.
        distance: From the latency to match, as a share of it; positive where it is slower.
    """

    space: SearchSpace
    architecture: Architecture
    scale: float
    latency_ms: float
    distance: float

    @property
    def matches(self) -> bool:
        """Whether it is near enough."""
        return abs(self.distance) <= TOLERANCE


class Matching:
    """The networks of a space that were measured, against the latency to match.

    Args:
        target: In milliseconds.
        measure: Called once for each network.
    """

    def __init__(self, space: SearchSpace, target: float, measure: Measure) -> None:
        self.space, self.target, self._measure = space, target, measure
        self._known: dict[Architecture, float] = {}

    def family(self, operator: str) -> Match:
        """Return the nearest network that has no operator but one.

        Candidates (of several options and widths) and depths are tried first; where none is near
        enough, the stages of the nearest are widened or narrowed by one factor.
        """
        networks = plain_networks(self.space, operator)
        for architecture in _ends(self.space, networks):
            self._look_at(architecture)
        for _ in range(LOOKS):
            nearest = min(self._measured(networks), key=lambda match: abs(match.distance))
            rest = [each for each in networks if each not in self._known]
            if nearest.matches or not rest:
                break
            self._look_at(rest[int(np.argmin(self._predicted(rest)))])
        nearest = min(self._measured(networks), key=lambda match: abs(match.distance))
        return nearest if nearest.matches else self._rescaled(nearest)

    def random(
        self, count: int, taken: Collection[Architecture], rng: np.random.Generator
    ) -> list[Match]:
        """Return random architectures of the latency, none twice; fewer in a space that has fewer.

        Of those that are predicted to match, the first ones drawn that do; where the space has too
        few, the nearest that were measured. Hardly any has few layers, so as many again are drawn
        in which a random share of the layers is left out, where the space offers that.
        """
        sampled = [self.space.sample(rng) for _ in range(2 * POOL)]
        thinned = [_thinned(self.space, each, rng) for each in sampled[POOL:]]
        drawn = dict.fromkeys([*sampled[:POOL], *thinned])
        pool = [architecture for architecture in drawn if architecture not in taken]
        tried: list[Match] = []
        if pool:
            off = np.maximum(self._predicted(pool), TOLERANCE)  # equal ones stay as they were drawn
            for index in np.argsort(off, kind="stable")[: 2 * count + LOOKS]:
                tried.append(self._look_at(pool[index]))
                if sum(match.matches for match in tried) == count:
                    break
        return sorted(tried, key=lambda match: max(abs(match.distance), TOLERANCE))[:count]

    def measured(self, architecture: Architecture, space: SearchSpace, scale: float) -> Match:
        """Measure a network."""
        latency = self._measure(space, architecture)
        return Match(space, architecture, scale, latency, latency / self.target - 1)

    def _look_at(self, architecture: Architecture) -> Match:
        if architecture not in self._known:
            self._known[architecture] = self._measure(self.space, architecture)
        latency = self._known[architecture]
        return Match(self.space, architecture, 1.0, latency, latency / self.target - 1)

    def _measured(self, networks: Sequence[Architecture]) -> list[Match]:
        return [self._look_at(each) for each in networks if each in self._known]

    def _predicted(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return how far each is predicted to be from the latency, as a share of it."""
        sums = LayerSums(self.space).fit(list(self._known), list(self._known.values()))
        mean, _ = sums.predict(architectures)
        return np.abs(mean / self.target - 1)

    def _rescaled(self, match: Match) -> Match:
        """Halve the range of factors, on a logarithmic scale, until a network is near enough."""
        low, high = (1.0, WIDEST) if match.distance < 0 else (1 / WIDEST, 1.0)
        nearest = match
        for _ in range(LOOKS):
            factor = math.sqrt(low * high)
            space = rescaled(self.space, factor)
            found = self.measured(_within(space, match.architecture), space, factor)
            if abs(found.distance) < abs(nearest.distance):
                nearest = found
            if nearest.matches:
                break
            low, high = (factor, high) if found.distance < 0 else (low, factor)
        return nearest


def families(space: SearchSpace) -> list[str]:
    """Return the operators of a space in its order, without `skip`."""
    names = dict.fromkeys(name for layer in space.layers for name in layer.candidates)
    return list(dict.fromkeys(space.operator_of(n) for n in names if not space.is_skip(n)))


def plain_networks(space: SearchSpace, operator: str) -> list[Architecture]:
    """Return the networks that have one candidate of an operator throughout, at every depth.

    A layer that does not offer the candidate has another one of the operator, or the first one.
    """
    layers = space.layers
    offered = dict.fromkeys(name for layer in layers for name in layer.candidates)
    found: dict[Architecture, None] = {}
    for name in [n for n in offered if space.operator_of(n) == operator]:
        full = [_nearest_offer(space, layer.candidates, name) for layer in layers]
        runs = [
            list(group) for _, group in itertools.groupby(range(len(layers)), layers.__getitem__)
        ]
        skips = [next(filter(space.is_skip, layer.candidates), "") for layer in layers]
        depths = [range(len(run), -1 if skips[run[0]] else len(run) - 1, -1) for run in runs]
        for kept in itertools.product(*depths):
            choices = [
                full[i] if place < depth else skips[i]
                for run, depth in zip(runs, kept)
                for place, i in enumerate(run)
            ]
            if name in choices:
                found[space.canonical(tuple(choices))] = None
    return list(found)


def rescaled(space: SearchSpace, factor: float) -> SearchSpace:
    """Return a space whose stages are all wider by one factor, in multiples of `MULTIPLE`."""
    stages = tuple(
        dataclasses.replace(stage, width=max(round(stage.width * factor / MULTIPLE), 1) * MULTIPLE)
        for stage in space.config.stages
    )
    return SearchSpace(dataclasses.replace(space.config, stages=stages), space.plugins)


def _nearest_offer(space: SearchSpace, candidates: Sequence[str], name: str) -> str:
    """Return a candidate, else one of its operator, else the first that is no skip."""
    alike = [c for c in candidates if space.operator_of(c) == space.operator_of(name)]
    others = [c for c in candidates if not space.is_skip(c)]
    return name if name in candidates else (alike or others or list(candidates))[0]


def _ends(space: SearchSpace, networks: Sequence[Architecture]) -> list[Architecture]:
    """Return the deepest and the shallowest network of each candidate."""

    def depth(architecture: Architecture) -> int:
        return sum(not space.is_skip(name) for name in architecture)

    groups: dict[frozenset[str], list[Architecture]] = {}
    for architecture in networks:
        used = frozenset(name for name in architecture if not space.is_skip(name))
        groups.setdefault(used, []).append(architecture)
    ends = [end(group, key=depth) for group in groups.values() for end in (max, min)]
    return list(dict.fromkeys(ends))


def _thinned(
    space: SearchSpace, architecture: Architecture, rng: np.random.Generator
) -> Architecture:
    """Return an architecture without a random share of its layers, where they may be skipped."""
    left_out = rng.random(len(architecture)) < rng.random()
    skips = [next(filter(space.is_skip, layer.candidates), None) for layer in space.layers]
    choices = zip(architecture, skips, left_out)
    return space.canonical(tuple(skip if skip and out else name for name, skip, out in choices))


def _within(space: SearchSpace, architecture: Architecture) -> Architecture:
    """Return an architecture without the skips that a space of other widths no longer offers."""
    used = [name for name in architecture if not space.is_skip(name)]
    return space.canonical(
        tuple(
            name if name in layer.candidates else next(u for u in used if u in layer.candidates)
            for layer, name in zip(space.layers, architecture)
        )
    )
