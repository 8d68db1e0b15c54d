"""Who may be trained alone: a lucky fast network must not hide what is better."""

from __future__ import annotations

import numpy as np
import pytest
from spaces import small_config, small_space

from configs.errors import TooNoisy
from experiments.plain_networks import PlainNetworks
from experiments.promising import cost_axis, promising
from experiments.verification import supernet_price
from search.goal import Goal
from search.space_profile import uniform_architectures
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, SearchSpace
from supernet.paths import uniform_paths

SPACE = small_space()
NAMES = ("conv3", "dw5", "inv3", "sk")  # in the order of accuracy and of latency
GOAL = Goal({"accuracy": "maximize", "latency_ms": "minimize"}, {"latency_ms": 16.0})
UNIFORM = uniform_architectures(SPACE)


def latency(architecture: Architecture) -> dict[str, float]:
    return {"latency_ms": sum(1.0 + NAMES.index(a) if a in NAMES else 5.0 for a in architecture)}


def searched(noise: float, effect: float, images: float, start=()) -> SearchResult:
    """Sixty trials, each layer `effect` points better with the next name."""
    rng = np.random.default_rng(0)
    drawn = [tuple(NAMES[i] for i in rng.integers(4, size=4)) for _ in range(60)]
    records = []
    for number, architecture in enumerate(dict.fromkeys([*start, *drawn])):
        accuracy = 60 + effect * sum(map(NAMES.index, architecture)) + rng.normal(0, noise)
        metrics = {"accuracy": accuracy, "accuracy_images": images, **latency(architecture)}
        records.append(TrialRecord(number, architecture, metrics, "complete"))
    return SearchResult(records, GOAL.front(records), GOAL, "small", None)


def candidates(result: SearchResult, plain: PlainNetworks):
    reading = next(iter(result.goal.objectives))
    return promising(SPACE, result, plain, reading=reading, macs=lambda a: 1e6 * len(a))


def test_a_noisy_front_does_not_end_what_may_be_the_most_accurate(tmp_path) -> None:
    plain = PlainNetworks(SPACE, tmp_path / "plain.json", latency)
    result = searched(noise=4.0, effect=0.0, images=100.0)
    lucky = min(result.trials, key=lambda record: record.metrics["latency_ms"])
    lucky.metrics["accuracy"] = 95.0  # the whole front, by chance
    result = SearchResult(result.trials, GOAL.front(result.trials), GOAL, "small", None)
    assert result.front == [lucky]
    slowest = max(record.metrics["latency_ms"] for record in result.trials)
    assert max(entrant.cost for entrant in candidates(result, plain)) > 0.9 * slowest


def test_of_cross_entropies_the_lower_are_the_more_promising(tmp_path) -> None:
    plain = PlainNetworks(SPACE, tmp_path / "plain.json", latency)
    goal = Goal({"cross_entropy": "minimize", "latency_ms": "minimize"})
    trials = [
        TrialRecord(r.number, r.architecture, {**latency(r.architecture), "cross_entropy": 100 /
                    r.metrics["accuracy"]}, "complete")
        for r in searched(noise=0.1, effect=2.0, images=1e6).trials
    ]  # fmt: skip
    found = candidates(SearchResult(trials, goal.front(trials), goal, "small", None), plain)
    tried = [entrant for entrant in found if entrant.architecture not in plain.architectures]
    best = max(tried, key=lambda entrant: entrant.promise).architecture
    lowest = min(trials, key=lambda record: record.metrics["cross_entropy"]).architecture
    assert sum(map(NAMES.index, best)) >= sum(map(NAMES.index, lowest)) - 1


def test_what_is_slower_than_the_best_and_surely_worse_is_left_out(tmp_path) -> None:
    plain = PlainNetworks(SPACE, tmp_path / "plain.json", latency)
    result = searched(noise=0.1, effect=-2.0, images=1e6)  # the slower, the worse
    found = candidates(result, plain)
    assert max(entrant.cost for entrant in found) < 8
    assert ("conv3",) * 4 in {entrant.architecture for entrant in found}
    best = max(found, key=lambda entrant: entrant.promise)
    assert best.architecture.count("conv3") >= 3


def test_plain_networks_that_were_not_tried_are_measured_once(tmp_path) -> None:
    asked: list[Architecture] = []

    def measure(architecture: Architecture) -> dict[str, float]:
        asked.append(architecture)
        if set(architecture) == {"dyn3"}:
            raise TooNoisy("busy")
        return latency(architecture)

    result = searched(noise=0.1, effect=1.0, images=400.0, start=[("conv3",) * 4])
    tried = {record.architecture for record in result.trials}
    file = tmp_path / "plain.json"
    found = candidates(result, PlainNetworks(SPACE, file, measure))
    assert set(asked) == set(UNIFORM) - tried
    plain = {entrant.architecture: record for entrant, record in found.items() if entrant.plain}
    limit = max(entrant.cost for entrant in found if entrant.architecture in tried)
    within = [a for a in UNIFORM if latency(a)["latency_ms"] <= limit and set(a) != {"dyn3"}]
    assert set(plain) == set(within) and len(within) > 1
    numbers = {record.number for architecture, record in plain.items() if architecture not in tried}
    assert all(number < 0 for number in numbers) and len(numbers) == len(set(within) - tried)
    asked.clear()
    assert candidates(result, PlainNetworks(SPACE, file, measure)) == found
    assert {architecture[0] for architecture in asked} <= {"dyn3"}  # not measured before either


def test_the_cost_is_the_first_objective_that_needs_no_images() -> None:
    assert cost_axis(GOAL) == "latency_ms"
    assert cost_axis(Goal({"macs": "minimize", "accuracy": "maximize"})) == "macs"
    assert cost_axis(Goal({"accuracy": "maximize"}, {"params": 9.0})) is None


@pytest.mark.parametrize("sampling", ["fair", "uniform"])
def test_the_price_of_a_supernet_is_that_of_all_its_paths(sampling: str) -> None:
    config = small_config(train={"epochs": 6, "sampling": sampling})
    space = SearchSpace(config.space)
    assert supernet_price(config, lambda _: 2.0) == 6 * 2.0 * (3 if sampling == "fair" else 1)
    count = lambda architecture: float(architecture.count("inv3"))  # noqa: E731
    paths = [uniform_paths(space, 0, step)[0].architecture for step in range(2000)]
    if sampling == "uniform":
        mean = np.mean([count(path) for path in paths])
        assert supernet_price(config, count) == pytest.approx(6 * mean, rel=0.25)
