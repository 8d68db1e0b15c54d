"""Pareto front and hypervolume against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.front import hypervolume, non_dominated, reference_point


def brute_force_front(losses: np.ndarray) -> list[bool]:
    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return all(a <= b) and any(a < b)

    return [not any(dominates(a, b) for a in losses) for b in losses]


def brute_force_volume(losses: np.ndarray, size: int) -> int:
    """Counts the unit cells below `size` that some point on the integer grid dominates."""
    cells = itertools.product(range(size), repeat=losses.shape[1])
    return sum(bool((losses <= np.array(cell)).all(axis=1).any()) for cell in cells)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("points", [1, 5, 25])
def test_front_and_volume_agree_with_brute_force(objectives: int, points: int) -> None:
    rng = np.random.default_rng(objectives * 100 + points)
    losses = rng.integers(0, 7, size=(points, objectives)).astype(float)
    assert non_dominated(losses).tolist() == brute_force_front(losses)
    volume = hypervolume(losses, np.full(objectives, 6.0))
    assert volume == pytest.approx(brute_force_volume(losses, 6))


def test_points_beyond_the_reference_add_nothing() -> None:
    losses = np.array([[1.0, 1.0], [0.0, 9.0], [9.0, 0.0]])
    assert hypervolume(losses, np.array([3.0, 3.0])) == 4.0
    assert hypervolume(losses[1:], np.array([3.0, 3.0])) == 0.0


def test_reference_lies_beyond_every_point() -> None:
    losses = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert reference_point(losses).tolist() == pytest.approx([3.2, 5.5])
    assert hypervolume(losses, reference_point(losses)) > 0
