"""Who is trained alone, how long, and who goes on: plans keep their budget whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from anything import quick
from hypothesis import given
from hypothesis import strategies as st

from search.halving import LEAST, Entrant, Halving, plan_halving, smallest_halving, spread


def entrant(name: str, cost: float, promise: float = 0.0, plain: bool = False, price=1.0):
    return Entrant((name,), cost, price, promise, plain)


entrants = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.booleans()),
    min_size=1,
    max_size=30,
).map(
    lambda rows: [
        entrant(str(i), cost, promise, plain, price)
        for i, (cost, promise, price, plain) in enumerate(rows)
    ]
)


def play(plan: Halving, seed: int) -> tuple[float, list[list[Entrant]]]:
    """Train by random scores; the price, and who was in each rung."""
    rng = np.random.default_rng(seed)
    going, price, rungs = list(plan.entrants), 0.0, []
    for rung, epochs in enumerate(plan.epochs):
        rungs.append([plan.entrants[architecture] for architecture in going])
        price += epochs * sum(each.price for each in rungs[-1])
        scores = {architecture: float(rng.integers(5)) for architecture in going}
        going = plan.survivors(rung, scores)
    return price, rungs


@quick
@given(entrants, st.floats(1, 500), st.integers(1, 40), st.integers(0, 99))
def test_no_course_of_events_exceeds_the_budget(candidates, budget, epochs, seed):
    plan = plan_halving(candidates, budget, epochs)
    if plan is None:
        assert smallest_halving(candidates).price_of_all() > budget
        return
    price, rungs = play(plan, seed)
    assert price <= plan.price_of_all() <= budget
    assert max(plan.epochs) <= epochs
    assert sum(map(len, rungs)) == plan.trainings()
    assert {each for each in candidates if each.plain} <= set(rungs[0])
    for kind in (plan.plain, plan.others):  # baselines are there to the end
        sizes = [len([each for each in rung if each in kind]) for rung in rungs]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= min(LEAST, len(kind))


def test_a_fast_network_goes_on_although_slow_ones_are_better():
    costs = [1.0, 1.1, 4.0, 4.1, 4.2, 4.3]
    plan = Halving((), tuple(entrant(str(i), cost) for i, cost in enumerate(costs)), 2)
    scores = dict(zip(plan.entrants, [50.0, 49.0, 60.0, 60.5, 60.7, 61.0]))
    kept = plan.survivors(0, scores)
    assert set(kept) >= {("0",), ("5",)} and ("1",) not in kept  # slower than 0, and worse
    assert kept == sorted(kept, key=lambda architecture: -scores[architecture])


def test_the_best_plain_network_goes_on_however_slow_it_is():
    # what a verification of cifar10_cpu read after two epochs, milliseconds and cross entropy
    names, costs = ["skip", "narrow3", "dw7"], [0.22, 1.49, 1.83]
    plain = tuple(entrant(name, cost, plain=True) for name, cost in zip(names, costs))
    plan = Halving((*plain, *(entrant(f"p{i}", 2 + i, plain=True) for i in range(2))), (), 3)
    scores = dict(zip(plan.entrants, [-1.633, -1.319, -1.152]))
    assert plan.survivors(1, scores) == [("dw7",), ("skip",)]


def test_of_equal_ones_the_cheaper_go_on():
    plan = Halving((), tuple(entrant(f"{i}", 1 + i) for i in range(4)), 2)
    assert plan.survivors(0, dict.fromkeys(plan.entrants, 50.0)) == [("0",), ("1",)]


def test_what_a_plain_network_has_already_is_not_taken_for_new():
    plain = tuple(entrant(f"p{i}", cost, plain=True) for i, cost in enumerate((1.0, 2.0)))
    others = tuple(entrant(f"o{i}", cost) for i, cost in enumerate((1.0, 1.5, 1.5, 3.0)))
    plan = Halving(plain, others, 2)
    scores = dict(zip(plan.entrants, [50.0, 60.0, 50.0, 49.0, 58.0, 61.0]))
    # o0 is p0 again, o1 is worse than it; o2 is between the plain ones, o3 beyond them
    assert set(plan.survivors(0, scores)) == {("p0",), ("p1",), ("o2",), ("o3",)}


def test_those_that_enter_are_spread_along_the_cost():
    rng = np.random.default_rng(0)
    candidates = []
    for i in range(300):
        cost = float(np.exp(rng.uniform(-1, 1)))
        candidates.append(entrant(f"{i:03d}", cost, 60 + 10 * np.log(cost) + rng.normal()))
    plan = plan_halving(candidates, budget=8, epochs=1)
    costs = sorted(np.log(each.cost) for each in plan.others)
    assert len(costs) == 8
    assert costs[0] < -0.6 and costs[-1] > 0.6 and np.diff(costs).max() < 0.6


def test_without_a_cost_the_most_promising_enter():
    candidates = [entrant(f"{i}", 0.0, promise=i % 7) for i in range(14)]
    first = [
        each.architecture[0] for each in spread(candidates, {e: e.promise for e in candidates})
    ]
    assert first[:4] == ["13", "6", "12", "5"]


def test_training_longer_comes_before_more_networks():
    candidates = [entrant(f"{i}", cost=0, promise=-i) for i in range(20)]
    plan = plan_halving(candidates, budget=16, epochs=100)  # or 16 for an epoch
    assert plan.epochs == [1, 2, 4]
    assert sorted(plan.entrants) == [(name,) for name in "0123"]
    assert plan.price_of_all() == 1 * 4 + 2 * 2 + 4 * 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_candidates_as_many_enter_as_there_are(count):
    plan = smallest_halving([entrant(f"{i}", cost=i) for i in range(count)])
    assert len(plan.others) == min(count, LEAST) and not plan.plain
