"""Architectures drawn evenly over a cost."""

from __future__ import annotations

import numpy as np
import pytest

from search.pool import all_of
from search.strata import draw_stratified
from search_space import ChoiceSpace

LARGE = ChoiceSpace([("a", "b")] * 24)


def cost(pool) -> np.ndarray:
    return np.array([architecture.count("b") for architecture in pool], dtype=float)


def test_the_ends_are_drawn_as_often_as_the_middle() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_stratified(LARGE, cost, 40, [], rng)
    assert len(set(drawn)) == 40
    random = [LARGE.sample(rng) for _ in range(40)]
    assert cost(drawn).std() > 1.5 * cost(random).std()
    assert drawn == draw_stratified(LARGE, cost, 40, [], np.random.default_rng(0))
    assert drawn != draw_stratified(LARGE, cost, 40, [], np.random.default_rng(1))


@pytest.mark.parametrize("count", [1, 5, 26, 30])
def test_of_a_small_space_all_are_to_be_had_but_those_that_are_taken(count: int) -> None:
    space = ChoiceSpace([("a", "b", "c")] * 3)
    drawn = draw_stratified(space, cost, count, [("a",) * 3], np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == min(count, 26)
    assert set(drawn) <= set(all_of(space)) - {("a",) * 3}


def test_nothing_is_drawn_where_all_is_taken() -> None:
    space = ChoiceSpace([("a",)] * 3)
    assert draw_stratified(space, cost, 3, [("a",) * 3], np.random.default_rng(0)) == []
