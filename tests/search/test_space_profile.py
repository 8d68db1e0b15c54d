"""The profile of a space, and the bounds that it refuses."""

from __future__ import annotations

import pytest

from configs.errors import TooNoisy, UserError
from search.goal import Goal
from search.space_profile import check_feasible, profile_space
from search_space import Architecture, ChoiceSpace

NAMES = ("conv", "inv", "skip")
COST = {"conv": 3.0, "inv": 2.0, "skip": 0.5}


def evaluate(architecture: Architecture) -> dict[str, float]:
    return {"latency_ms": sum(COST[name] for name in architecture)}


def bounded(**bounds: float) -> Goal:
    return Goal({"accuracy": "maximize"}, bounds)


def test_profile_finds_the_ends_and_the_feasible_share() -> None:
    space = ChoiceSpace([NAMES] * 8)
    profile = profile_space(space, evaluate, bounded(latency_ms=14.0), samples=200)
    latency = profile.ranges["latency_ms"]
    assert (latency.smallest, latency.largest) == (4.0, 24.0)
    assert latency.median == pytest.approx(8 * 5.5 / 3, rel=0.1)
    assert 0.3 < profile.feasible < 0.6
    check_feasible(profile)


def test_a_bound_that_is_proved_impossible_is_refused_with_the_exact_range() -> None:
    space = ChoiceSpace([NAMES] * 8)
    profile = profile_space(space, evaluate, bounded(latency_ms=3.9), sums=evaluate)
    assert profile.feasible == 0
    with pytest.raises(UserError, match=r"latency_ms: 3\.9: can't be met.* between 4 and 24"):
        check_feasible(profile)
    with pytest.raises(UserError, match=r"constraints\.macs: not among the cheap metrics"):
        profile_space(space, evaluate, bounded(macs=1e6))


def cheapest_differs(architecture: Architecture) -> dict[str, float]:
    """A sum whose smallest architecture takes another candidate in every layer."""
    costs = [{"conv": 9, "inv": 9, "skip": 9, cheap: 1} for cheap in NAMES * 3]
    return {"params": float(sum(cost[name] for cost, name in zip(costs, architecture)))}


def test_the_smallest_of_a_sum_is_found_whatever_the_sample() -> None:
    space = ChoiceSpace([NAMES] * 9)
    for samples in (1, 8):
        goal = bounded(params=9.0)
        profile = profile_space(
            space, cheapest_differs, goal, sums=cheapest_differs, samples=samples
        )
        assert profile.ranges["params"].smallest == 9.0  # of 19,683 architectures, one
        assert profile.ranges["params"].largest == 81.0
        check_feasible(profile)  # it is in the space, so it isn't refused
    with pytest.raises(UserError, match=r"params: 8: can't be met.* between 9 and 81"):
        check_feasible(profile_space(space, cheapest_differs, bounded(params=8.0),
                                     sums=cheapest_differs))  # fmt: skip


def test_what_is_no_sum_is_searched_for_and_otherwise_not_found() -> None:
    space = ChoiceSpace([NAMES] * 9)
    asked: list[Architecture] = []

    def measure(architecture: Architecture) -> dict[str, float]:
        asked.append(architecture)
        return {"latency_ms": cheapest_differs(architecture)["params"]}

    check_feasible(profile_space(space, measure, bounded(latency_ms=9.0), samples=4))
    assert len(asked) == len(set(asked)) < 4 + 3 + 2 * 9 + 1
    with pytest.raises(UserError, match=r"latency_ms: 8: no architecture that keeps it was found"):
        check_feasible(profile_space(space, measure, bounded(latency_ms=8.0), samples=4))
    asked.clear()
    profile_space(space, measure, bounded(latency_ms=70.0), samples=4)
    assert len(asked) <= 4 + 3  # nothing is searched for where a sample keeps the bound


def test_the_exact_range_does_not_depend_on_a_quiet_device() -> None:
    space = ChoiceSpace([NAMES] * 9)

    def measure(architecture: Architecture) -> dict[str, float]:
        if cheapest_differs(architecture)["params"] < 40:
            raise TooNoisy("busy")
        return cheapest_differs(architecture)

    profile = profile_space(space, measure, bounded(params=9.0), sums=cheapest_differs)
    assert profile.ranges["params"].smallest == 9.0
    check_feasible(profile)
