"""Picking a member of a front, and reading the front that a search reported."""

from __future__ import annotations

import dataclasses

import pytest

from configs.errors import UserError
from experiments.reporting.front import pick, read_front
from experiments.reporting.report import write_report
from search.goal import Goal
from search.trials import SearchResult, TrialRecord
from search_space import ChoiceSpace


def record(number: int, architecture=("conv3",), **metrics: float) -> TrialRecord:
    return TrialRecord(number, tuple(architecture), metrics, "complete")


def test_the_knee_is_farthest_above_the_line_whatever_the_units():
    front = [
        record(0, accuracy=96.0, latency_ms=5.0),
        record(1, accuracy=95.0, latency_ms=2.0),  # most of the accuracy for a quarter of the cost
        record(2, accuracy=92.0, latency_ms=1.5),
        record(3, accuracy=90.0, latency_ms=1.0),
    ]
    assert pick(front, "knee").number == 1
    micro = [
        record(r.number, accuracy=r.metrics["accuracy"], latency_ms=1e3 * r.metrics["latency_ms"])
        for r in front
    ]
    assert pick(micro, "knee").number == 1
    assert pick(front[::-1], "knee").number == 1
    assert pick(front, "best").number == 0
    assert pick(front, 2).number == 2 and pick(front, "3").number == 3


def test_a_front_without_a_knee_gives_the_best():
    ends = [record(0, accuracy=96.0, latency_ms=5.0), record(1, accuracy=90.0, latency_ms=1.0)]
    bent_inwards = [*ends, record(2, accuracy=91.0, latency_ms=4.0)]
    for front in (ends, ends[:1], bent_inwards):
        assert pick(front, "knee").number == 0
    assert pick([record(7, params=3.0)], "best").number == 7


def test_what_noise_has_lifted_is_not_the_best():
    """quickstart, 2026-12-01: 432 images; retrained, the second had 82 %, the first 74 %."""
    front = [
        record(0, ["ghost3"] * 4, accuracy=74.07, accuracy_images=432, latency_ms=1.35),
        record(1, ["dw5"] * 4, accuracy=73.61, accuracy_images=432, latency_ms=0.84),
        record(2, ["narrow3"] * 4, accuracy=65.74, accuracy_images=432, latency_ms=0.64),
    ]
    assert pick(front, "best").number == 1
    many = [dataclasses.replace(r, metrics={**r.metrics, "accuracy_images": 1e6}) for r in front]
    assert pick(many, "best").number == 0
    assert pick(front, "fastest-within 0%").number == 0


@pytest.mark.parametrize(
    ("choice", "number"),
    [("fastest-within 0%", 0), ("fastest-within 0.9%", 0), ("fastest-within 1%", 1),
     ("fastest-within 4.5%", 2), ("fastest-within 50%", 3)],
)  # fmt: skip
def test_the_fastest_within_some_points_of_the_best(choice, number):
    front = [
        record(0, accuracy=96.0, latency_ms=5.0),
        record(1, accuracy=95.0, latency_ms=2.0),
        record(2, accuracy=92.0, latency_ms=1.5),
        record(3, accuracy=90.0, latency_ms=1.0),
    ]
    assert pick(front, choice).number == number
    assert pick(front[::-1], choice).number == number
    assert pick([record(7, accuracy=3.0)], choice).number == 7  # no cost


@pytest.mark.parametrize(
    "choice", ["2", 2, -1, "-1", "fastest", "fastest-within", "fastest-within -1%", "1.0", ""]
)
def test_a_bad_pick_names_what_is_there(choice):
    front = [record(0, accuracy=96.0, latency_ms=5.0), record(1, accuracy=90.0, latency_ms=1.0)]
    possible = "best, knee, 'fastest-within 1%' or an index from 0 to 1"
    with pytest.raises(UserError, match=possible):
        pick(front, choice)
    with pytest.raises(UserError, match="front is empty"):
        pick([], "best")


def test_the_front_is_read_as_it_was_written(tmp_path):
    space = ChoiceSpace([("a", "b"), ("a", "c")])
    front = [record(3, "ba", accuracy=61.5, mine=0.25), record(1, "ac", accuracy=60.0)]
    result = SearchResult(front, front, Goal({"accuracy": "maximize"}), "table", None)
    write_report(result, space, tmp_path)
    assert read_front(tmp_path) == front
    with pytest.raises(UserError, match=r"front\.csv: no front there; run `evolute search`"):
        read_front(tmp_path / "gone")
