"""When reading stops: with certainty, or with a known error."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from evaluators.accuracy import Reading
from evaluators.racing import ERROR, cannot_reach, stays_above


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


def reading_of(losses: np.ndarray) -> Reading:
    return Reading(0, len(losses), float(losses.sum()), float((losses**2).sum()))


def test_a_cross_entropy_that_comes_down_is_stopped_once_in_a_hundred_times() -> None:
    """The worst case: that of all images is exactly the one to reach."""
    rng, stopped, searches, ends = np.random.default_rng(0), 0, 4000, (200, 400, 600, 800)
    losses = rng.exponential(1.5, 1000)  # skewed, as cross entropies are
    for _ in range(searches):
        drawn = rng.permutation(losses)
        stopped += any(
            stays_above(reading_of(drawn[:end]), losses.mean(), 1000, len(ends)) for end in ends
        )
    assert stopped / searches <= 1.5 * ERROR


def test_a_cross_entropy_far_above_is_seen_at_the_first_look() -> None:
    losses = np.random.default_rng(0).exponential(1.5, 1000)
    assert stays_above(reading_of(losses[:200]), losses.mean() - 0.5, 1000, 4)
    assert not stays_above(reading_of(losses[:200]), losses.mean() + 0.5, 1000, 4)
    assert stays_above(reading_of(losses), losses.mean() - 1e-9, 1000, 4)  # nothing is left to hope


def test_the_deviation_is_that_of_single_images() -> None:
    losses = np.random.default_rng(0).exponential(1.5, 50)
    reading = reading_of(losses[:20]).plus(reading_of(losses[20:]))
    assert reading.cross_entropy == pytest.approx(losses.mean())
    assert reading.deviation == pytest.approx(losses.std(ddof=1))
