"""Objectives and bounds as one value: what is refused, losses, violation, verdict, front."""

from __future__ import annotations

import pickle

import pytest

from configs.errors import UserError
from search.goal import Goal
from search.trials import TrialRecord

OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
GOAL = Goal(OBJECTIVES, {"latency_ms": 3.0})


@pytest.mark.parametrize(
    ("metrics", "state", "named"),
    [
        ({"accuracy": 90.0, "latency_ms": 2.0}, "complete", ""),
        ({"latency_ms": 3.5}, "infeasible", "latency_ms 3.5 > 3"),
        ({"accuracy": 90.0, "latency_ms": 3.0}, "complete", ""),
        ({"latency_ms": 2.0}, "failed", "'accuracy' is missing"),
        ({"accuracy": 90.0}, "failed", "'latency_ms' is missing"),
        ({"accuracy": float("nan"), "latency_ms": 2.0}, "failed", "'accuracy' is nan"),
        ({"accuracy": 90.0, "latency_ms": float("nan")}, "failed", "'latency_ms' is nan"),
        ({"accuracy": None, "latency_ms": 2.0}, "failed", "'accuracy' is None"),
        ({"accuracy": float("inf"), "latency_ms": 2.0}, "failed", "'accuracy' is inf"),
        ({}, "failed", "'accuracy' is missing; the evaluator returned nothing"),
    ],
)
def test_judgement(metrics: dict[str, float | None], state: str, named: str) -> None:
    judged, message = GOAL.judge(metrics)
    assert judged == state
    assert named in message


@pytest.mark.parametrize(
    ("objectives", "bounds", "named"),
    [
        ({}, {}, "objectives: at least one"),
        ({"accuracy": "up"}, {}, r"objectives\.accuracy: 'up' is no direction"),
        ({"accuracy": "minimize"}, {}, r"objectives\.accuracy: 'minimize'.*use 'maximize'"),
        ({"params": "maximize"}, {}, r"objectives\.params: 'maximize'.*lower.*use 'minimize'"),
        (OBJECTIVES, {"accuracy": 90.0}, r"constraints\.accuracy: 90\.0.*an upper bound"),
        (OBJECTIVES, {"macs": float("nan")}, r"constraints\.macs: nan is no bound"),
        (OBJECTIVES, {"macs": -1.0}, r"constraints\.macs: -1\.0.*positive upper bound"),
    ],
)
def test_what_makes_no_sense_is_refused(objectives: dict, bounds: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Goal(objectives, bounds)


def test_metrics_of_ones_own_may_point_anywhere() -> None:
    goal = Goal({"score": "minimize", "margin": "maximize"}, {"energy": -2.0})
    assert goal.judge({"score": 1.0, "margin": 2.0, "energy": -3.0}) == ("complete", "")


@pytest.mark.parametrize(
    ("latency", "rival"), [(0.5, None), (1.0, 1), (1.5, 1), (2.0, 2), (9.0, 2)]
)
def test_the_rival_is_the_best_of_those_that_are_as_good_elsewhere(
    latency: float, rival: int | None
) -> None:
    front = {
        2: {"accuracy": 90.0, "latency_ms": 2.0},
        1: {"accuracy": 80.0, "latency_ms": 1.0},
        7: {"accuracy": 95.0, "latency_ms": 10.0},
    }
    assert GOAL.rival("accuracy", {"latency_ms": latency}, front) == rival
    assert GOAL.rival("accuracy", {"params": 1.0}, front) is None  # latency is not known yet
    assert GOAL.rival("params", {"latency_ms": latency}, front) is None  # no objective
    assert GOAL.rival("accuracy", {"latency_ms": latency}, {}) is None
    assert Goal({"accuracy": "maximize"}).rival("accuracy", {}, front) == 7
    faster = GOAL.rival("latency_ms", {"accuracy": 85.0}, front)
    assert faster == 2  # of trials 2 and 7


def test_it_is_a_value() -> None:
    given = dict(OBJECTIVES)
    goal = Goal(given, {"latency_ms": 3.0})
    given["params"] = "minimize"  # the caller's mapping is not ours
    assert goal == GOAL and hash(goal) == hash(GOAL)
    assert pickle.loads(pickle.dumps(goal)) == goal
    assert goal != Goal(OBJECTIVES, {"latency_ms": 4.0})


def test_losses_turn_what_is_maximised() -> None:
    goal = Goal({"latency_ms": "minimize", "accuracy": "maximize"})
    assert goal.losses([{"accuracy": 90.0, "latency_ms": 2.0}]).tolist() == [[2.0, -90.0]]
    assert goal.losses([]).shape == (0, 2)
    assert (goal.best("accuracy", [1, 3, 2]), goal.best("latency_ms", [1, 3, 2])) == (3, 1)


def test_violation_is_relative_and_adds_up() -> None:
    goal = Goal(OBJECTIVES, {"latency_ms": 2.0, "params": 1000.0})
    assert goal.excesses({"latency_ms": 2.5, "params": 900.0}) == pytest.approx(
        {"latency_ms": 0.25, "params": -0.1}
    )
    assert goal.violation({"latency_ms": 2.5, "params": 1100.0}) == pytest.approx(0.35)
    assert goal.violation({"latency_ms": 2.0}) == 0 and not goal.exceeded({"latency_ms": 2.0})
    assert goal.exceeded({"params": 1001.0})
    assert goal.bounded_by({"params"}) == Goal(OBJECTIVES, {"params": 1000.0})
    assert goal.metrics == ["accuracy", "latency_ms", "params"]


def test_front_leaves_out_what_is_not_complete() -> None:
    good = TrialRecord(0, ("a",), {"accuracy": 80.0, "latency_ms": 2.0}, "complete")
    dominated = TrialRecord(1, ("b",), {"accuracy": 70.0, "latency_ms": 3.0}, "complete")
    fast = TrialRecord(2, ("c",), {"accuracy": 60.0, "latency_ms": 1.0}, "complete")
    forbidden = TrialRecord(3, ("d",), {"accuracy": 99.0, "latency_ms": 9.0}, "infeasible")
    assert GOAL.front([good, dominated, fast, forbidden]) == [good, fast]
