"""When reading stops: with certainty, or with a known error."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from evaluators.racing import ERROR, cannot_reach


def stopped_at(right: np.ndarray, needed: int, block: int) -> int:
    """How many of some answers are read, in their order, before they are seen to be too few."""
    total = len(right)
    ends = range(block, total, block)
    for images in ends:
        if cannot_reach(int(right[:images].sum()), images, needed, total, len(ends)):
            return images
    return total


def test_it_is_the_tail_of_drawing_without_replacement() -> None:
    total, needed, images = 30, 18, 10
    for correct in range(images + 1):
        tail = sum(
            comb(needed, k) * comb(total - needed, images - k) for k in range(correct + 1)
        ) / comb(total, images)
        assert cannot_reach(correct, images, needed, total, looks=1) == (tail <= ERROR)
        assert cannot_reach(correct, images, needed, total, looks=5) == (tail <= ERROR / 5)


@pytest.mark.parametrize(("correct", "certain"), [(9, True), (10, False)])
def test_right_answers_to_all_that_is_left_do_not_suffice(correct: int, certain: bool) -> None:
    assert cannot_reach(correct, 90, needed=20, total=100, looks=10**9) == certain


def test_who_would_have_reached_it_is_stopped_once_in_a_hundred_times_at_most() -> None:
    """The worst case: exactly as many are right as are needed."""
    rng = np.random.default_rng(0)
    for total, needed in ((650, 330), (650, 600), (144, 130)):
        answers = np.arange(total) < needed
        wrong = [stopped_at(rng.permutation(answers), needed, total // 5) for _ in range(4000)]
        assert np.mean(np.array(wrong) < total) <= ERROR + 3 * np.sqrt(ERROR / 4000)


def test_the_worse_is_stopped_the_sooner() -> None:
    rng = np.random.default_rng(0)
    read = [
        np.mean([stopped_at(rng.permutation(np.arange(650) < n), 330, 130) for _ in range(100)])
        for n in (130, 260, 300, 330)
    ]
    assert read == sorted(read) and read[0] == 130 and read[1] < 450 and read[3] > 630
