"""The profile of a space, and the bounds that it refuses."""

from __future__ import annotations

import pytest

from configs.errors import UserError
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


def test_impossible_bound_is_refused_with_the_range() -> None:
    space = ChoiceSpace([NAMES] * 8)
    profile = profile_space(space, evaluate, bounded(latency_ms=3.9))
    assert profile.feasible == 0
    with pytest.raises(UserError, match=r"latency_ms: 3\.9 can't be met.* between 4 and 24"):
        check_feasible(profile)
    with pytest.raises(UserError, match=r"constraints\.macs: not among the cheap metrics"):
        profile_space(space, evaluate, bounded(macs=1e6))
