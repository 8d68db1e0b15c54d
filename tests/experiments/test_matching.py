"""Networks of a given latency, found among latencies that are a known sum over the layers."""

from __future__ import annotations

import numpy as np
import pytest
from spaces import small_space, space_values

from experiments.matching import TOLERANCE, Match, Matching, families, plain_networks, rescaled
from search_space import Architecture, SearchSpace

COSTS = {"conv3": 1.0, "dw5": 0.5, "inv3": 0.8, "inv7": 1.6, "skip": 0.0}


def space_of(*candidates: str, **changes) -> SearchSpace:
    return small_space(candidates=candidates, **changes)


def two_involutions() -> SearchSpace:
    options = {"inv3": {"operator": "involution", "kernel_size": 3},
               "inv7": {"operator": "involution", "kernel_size": 7},
               "conv3": {"operator": "convolution"}, "skip": {"operator": "skip"}}  # fmt: skip
    return SearchSpace.from_dict({"space": space_values(candidates=()) | {"candidates": options}})


class Clock:
    """A latency that is a sum over the layers, in proportion to their widths."""

    def __init__(self) -> None:
        self.measured: list[Architecture] = []

    def __call__(self, space: SearchSpace, architecture: Architecture) -> float:
        self.measured.append(architecture)
        costs = [
            COSTS[name] * layer.out_channels for layer, name in zip(space.layers, architecture)
        ]
        return 1 + sum(costs) / 16


def test_families_are_the_operators_without_skip() -> None:
    assert families(two_involutions()) == ["involution", "convolution"]


def test_plain_networks_have_one_candidate_at_every_depth() -> None:
    space = two_involutions()
    found = plain_networks(space, "involution")
    assert len(found) == len(set(found)) == 2 * (3 * 2 * 2 - 1)  # candidates; not all are skipped
    for architecture in found:
        space.validate(architecture)
        assert space.canonical(architecture) == architecture
        assert len({name for name in architecture if name != "skip"}) == 1


def test_a_layer_without_the_family_has_its_first_candidate() -> None:
    stages = [
        {"width": 16, "depth": 1, "expansion": 2, "candidates": ["conv3", "dw5"]},
        {"width": 16, "depth": 2, "expansion": 2, "candidates": ["dw5", "inv3", "skip"]},
    ]
    space = space_of("conv3", "dw5", "inv3", "skip", stages=stages)
    assert ("conv3", "inv3", "inv3") in plain_networks(space, "involution")
    assert all("inv3" in architecture for architecture in plain_networks(space, "involution"))


def test_a_candidate_or_a_depth_that_matches_is_found_without_other_widths() -> None:
    space, clock = two_involutions(), Clock()
    for wanted in plain_networks(space, "involution"):
        target = clock(space, wanted)
        match = Matching(space, target, clock).family("involution")
        assert match.matches and match.scale == 1 and match.space == space


def test_nothing_is_measured_twice_and_little_is_measured() -> None:
    space, clock = two_involutions(), Clock()
    matching = Matching(space, 5.7, clock)
    for name in families(space):
        matching.family(name)
    unscaled = [a for a in clock.measured if len(a) == len(space.layers)]
    assert len(unscaled) <= 2 * (6 + 2 * 8)


@pytest.mark.parametrize("target", [8.0, 14.0, 55.0])
def test_stages_are_scaled_by_one_factor_where_the_space_has_no_such_latency(target: float) -> None:
    stages = [{"width": 64, "depth": 2, "expansion": 2}, {"width": 96, "depth": 2, "stride": 2}]
    space, clock = space_of("conv3", "inv3", stages=stages), Clock()  # no depth to choose
    match = Matching(space, target, clock).family("convolution")
    assert match.architecture == ("conv3",) * 4
    assert abs(clock(match.space, match.architecture) / target - 1) <= TOLERANCE
    widths = [stage.width for stage in match.space.config.stages]
    assert widths == [stage.width for stage in rescaled(space, match.scale).config.stages]
    assert (match.scale < 1) is (target < clock(space, match.architecture))


def test_a_latency_that_nothing_has_is_missed_by_what_is_said() -> None:
    space, clock = space_of("conv3", "inv3"), Clock()
    match = Matching(space, 1000.0, clock).family("convolution")
    assert not match.matches
    assert match.distance == pytest.approx(match.latency_ms / 1000 - 1)
    assert match.scale > 3.9  # as wide as it may be


def test_a_skip_that_other_widths_forbid_becomes_a_layer() -> None:
    space, clock = space_of("conv3", "skip"), Clock()  # stem and first stage are equally wide
    shallow = ("skip", "skip", "conv3", "skip")
    matching = Matching(space, clock(space, shallow) * 0.5, clock)
    match = matching.family("convolution")
    match.space.validate(match.architecture)
    assert match.scale < 1


def test_random_networks_have_the_latency_and_are_no_two_equal() -> None:
    space, clock = two_involutions(), Clock()
    matching = Matching(space, 6.0, clock)
    for name in families(space):
        matching.family(name)
    taken = [("conv3", "inv3", "conv3", "inv3")]
    found = matching.random(3, taken, np.random.default_rng(0))
    assert len({match.architecture for match in found} - set(taken)) == 3
    assert all(match.matches for match in found)
    again = Matching(space, 6.0, clock)
    again.family("involution")
    assert isinstance(again.random(1, [], np.random.default_rng(0))[0], Match)


def test_shallow_random_networks_are_found_in_a_deep_space() -> None:
    """One of 3,000 random networks of this space has a single layer."""
    space = SearchSpace.from_yaml("cifar10_cpu")

    def measure(space: SearchSpace, architecture: Architecture) -> float:
        return 0.2 + sum(not space.is_skip(name) for name in architecture)

    matching = Matching(space, 1.2, measure)
    for name in families(space):
        matching.family(name)
    found = matching.random(4, [], np.random.default_rng(0))
    assert len({match.architecture for match in found}) == 4
    assert all(match.matches for match in found)


def test_a_small_space_has_fewer_random_networks() -> None:
    space = space_of("conv3", stages=[{"width": 16, "depth": 1, "expansion": 2}])
    matching = Matching(space, 2.0, Clock())
    matching.family("convolution")
    assert matching.random(3, [("conv3",)], np.random.default_rng(0)) == []
