"""The front, measured a second time: what is reported is what was measured."""

from __future__ import annotations

import pytest

from configs.errors import TooNoisy
from experiments.confirmation import confirm_front
from search.goal import Goal
from search.trials import SearchResult, TrialRecord

GOAL = Goal({"accuracy": "maximize", "latency_ms": "minimize"}, {"latency_ms": 3.0})


def searched(*values: tuple[float, float]) -> SearchResult:
    """A search of architectures a, b, c, ... with these accuracies and latencies."""
    trials = [
        TrialRecord(number, (name,), {"accuracy": accuracy, "latency_ms": latency}, "complete")
        for number, (name, (accuracy, latency)) in enumerate(zip("abcdef", values))
    ]
    return SearchResult(trials, GOAL.front(trials), GOAL, "mine", None)


class Device:
    """Gives second values, and notes what it was asked for and what was stored."""

    def __init__(self, **values: tuple[float, float] | Exception) -> None:
        self.values, self.asked, self.stored = values, [], []

    def __call__(self, architecture: tuple[str, ...]) -> dict[str, float]:
        self.asked.append(architecture[0])
        value = self.values[architecture[0]]
        if isinstance(value, Exception):
            raise value
        return {"accuracy": value[0], "latency_ms": value[1]}


def confirm(result: SearchResult, device: Device) -> SearchResult:
    return confirm_front(result, device, device.stored.append)


def test_the_front_has_second_values_with_the_first_beside_them() -> None:
    device = Device(a=(85.0, 2.1), b=(75.0, 1.1))
    result = confirm(searched((90, 2.0), (80, 1.0), (70, 2.0)), device)
    assert [member.metrics for member in result.front] == [
        {"accuracy": 85.0, "latency_ms": 2.1, "searched_accuracy": 90, "searched_latency_ms": 2.0},
        {"accuracy": 75.0, "latency_ms": 1.1, "searched_accuracy": 80, "searched_latency_ms": 1.0},
    ]
    assert device.asked == ["a", "b"]  # not what the first values keep off the front
    assert [record.number for record in device.stored] == [0, 1]
    assert [r.again for r in device.stored] == [r.again for r in result.trials[:2]]
    assert result.trials[0].metrics == {"accuracy": 90, "latency_ms": 2.0}  # as searched
    assert result.note == ""

    device.asked.clear()  # what has a second measurement gets no third
    assert confirm(result, device).front == result.front and device.asked == []


def test_who_exceeds_a_bound_makes_room_for_those_it_kept_off_the_front() -> None:
    device = Device(a=(90.0, 3.2), b=(80.0, 1.0), c=(84.0, 2.9))
    result = confirm(searched((90, 2.9), (80, 1.0), (85, 2.95), (75, 1.5)), device)
    assert [member.architecture for member in result.front] == [("c",), ("b",)]
    assert device.asked == ["a", "b", "c"]


def test_who_is_dominated_the_second_time_leaves() -> None:
    device = Device(a=(79.0, 2.0), b=(80.0, 1.0))
    result = confirm(searched((90, 2.0), (80, 1.0)), device)
    assert [member.architecture for member in result.front] == [("b",)]


def test_when_every_member_exceeds_its_bound_what_was_measured_is_reported() -> None:
    device = Device(a=(88.0, 3.4), b=(81.0, 3.1))
    result = confirm(searched((90, 2.9), (80, 2.8)), device)
    assert [(m.metrics["latency_ms"], m.state) for m in result.front] == [
        (3.4, "infeasible"),
        (3.1, "infeasible"),
    ]
    assert [member.message for member in result.front] == [
        "latency_ms 3.4 > 3",
        "latency_ms 3.1 > 3",
    ]
    assert "none of the 2 best architectures keeps its bounds" in result.note
    assert "latency_ms 3.1 > 3" in result.note


@pytest.mark.parametrize("busy", ["a", "b"])
def test_a_device_that_is_too_busy_leaves_the_first_values_and_says_so(busy: str) -> None:
    values = {"a": (89.0, 2.0), "b": (81.0, 1.0), busy: TooNoisy("busy")}
    result = confirm(searched((90, 2.0), (80, 1.0)), Device(**values))
    member = result.front["ab".index(busy)]
    assert member.metrics == result.trials["ab".index(busy)].metrics
    assert "1 of 2 members" in result.note and "values of the search" in result.note
