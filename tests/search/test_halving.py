"""Who is trained alone, how long, and who goes on: plans keep their budget whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from anything import quick
from hypothesis import given
from hypothesis import strategies as st

from search.halving import LEAST, Entrant, Halving, plan_halving, smallest_halving


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
    for group in plan.groups:
        sizes = [len([each for each in rung if each in group]) for rung in rungs]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= min(LEAST, len(group))
        # its baseline is there to the end
        assert any(each.plain for each in rungs[-1] if each in group) == any(
            each.plain for each in group
        )


def test_a_rung_is_halved_within_groups_of_similar_cost():
    fast = [entrant(f"f{i}", 1 + i / 10, plain=i == 0) for i in range(4)]
    slow = [entrant(f"s{i}", 9 + i / 10, plain=i == 0) for i in range(4)]
    plan = Halving((tuple(fast), tuple(slow)), 2)
    scores = {each.architecture: 10.0 * i for i, each in enumerate([*fast, *slow])}
    # all slow ones are better than all fast ones; each group keeps two, its plain one among them
    assert plan.survivors(0, scores) == [("f3",), ("f0",), ("s3",), ("s0",)]
    ties = dict.fromkeys(scores, 50.0)
    assert plan.survivors(0, ties) == [("f0",), ("f1",), ("s0",), ("s1",)]  # the cheaper ones


def test_the_most_promising_of_each_group_enter_beside_all_plain_ones():
    candidates = [entrant(f"{i}", cost=i, promise=i % 5, plain=i in (1, 2)) for i in range(12)]
    plan = smallest_halving(candidates, groups=2)
    names = [[each.architecture[0] for each in group] for group in plan.groups]
    assert names == [["1", "2", "4", "3"], ["9", "8"]]
    assert plan_halving(candidates, budget=5.9, epochs=8, groups=2) is None
    longer = plan_halving(candidates, budget=1e9, epochs=9, groups=2)
    assert longer.epochs == [1, 2, 4, 8] and len(longer.entrants) == 12


def test_training_longer_comes_before_more_networks():
    candidates = [entrant(f"{i}", cost=i, promise=-i) for i in range(20)]
    plan = plan_halving(candidates, budget=16, epochs=100, groups=1)  # or 16 for an epoch
    assert plan.epochs == [1, 2, 4]
    assert sorted(plan.entrants) == [(name,) for name in "0123"]
    assert plan.price_of_all() == 1 * 4 + 2 * 2 + 4 * 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_candidates_are_one_group(count):
    plan = smallest_halving([entrant(f"{i}", cost=i) for i in range(count)])
    assert [len(group) for group in plan.groups] == [min(count, LEAST)]
