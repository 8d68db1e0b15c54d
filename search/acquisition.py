"""What an architecture is worth trying, before it is tried: expected improvements of a front.

All functions take losses, as `search.front` does. The losses of an architecture are independent
normal variables; one whose deviation is zero is known.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from search.front import non_dominated

POINTS = 512  # in which the volume is sampled, with three and more objectives


def expected_shortfall(mean: np.ndarray, deviation: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the expectation of max(level - x, 0) of normal variables; arguments are broadcast.

    It is the expected improvement over a value (Jones, Schonlau and Welch 1998, equation 15).
    """
    gap = level - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        z = gap / deviation
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        uncertain = gap * ndtr(z) + deviation * density
    return np.where(deviation > 0, uncertain, np.maximum(gap, 0.0))


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return by how much the hypervolume of a front is expected to grow.

    Exact for one and two objectives. For more the volume is sampled, in the same points for all.

    Args:
        mean: Shape (architectures, objectives).
        deviation: Likewise; not negative.
        front: Losses of the front, shape (points, objectives); may be empty.
        reference: Point from which the volume is measured, shape (objectives,).

    Returns:
        Shape (architectures,).
    """
    front = front[(front < reference).all(axis=1)]
    if len(reference) == 1:
        best = min([*front[:, 0], reference[0]])
        return expected_shortfall(mean[:, 0], deviation[:, 0], np.array(best))
    if len(reference) == 2:
        return _improvement_of_two(mean, deviation, front, reference)
    return _sampled_improvement(mean, deviation, front, reference)


def _improvement_of_two(
    mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Sum over the steps of the front: expected width gained x expected height gained.

    The first loss varies along a step, up to the loss where the next begins; the second one must
    fall below the height of the step. Both expectations are shortfalls, and the losses independent
    (Emmerich, Yang and Deutz 2016).
    """
    front = front[non_dominated(front)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    ends = np.append(front[:, 0], reference[0])
    heights = np.append(reference[1], front[:, 1])
    reached = expected_shortfall(mean[:, :1], deviation[:, :1], ends)
    widths = np.diff(reached, axis=1, prepend=0.0)
    return (widths * expected_shortfall(mean[:, 1:], deviation[:, 1:], heights)).sum(axis=1)


def _sampled_improvement(
    mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Average, over points that the front leaves free, of the probability to dominate them."""
    lowest = (mean - 2 * deviation).min(axis=0)
    lowest = np.minimum(lowest, front.min(axis=0, initial=np.inf))
    unit = qmc.Sobol(len(reference), seed=0).random(POINTS)
    points = lowest + unit * np.maximum(reference - lowest, 0.0)
    free = ~(front[None] <= points[:, None]).all(axis=2).any(axis=1)
    dominated = np.ones((len(mean), int(free.sum())))
    for objective, levels in enumerate(points[free].T):
        dominated *= probability_below(
            mean[:, objective, None], deviation[:, objective, None], levels
        )
    return dominated.sum(axis=1) / POINTS * np.prod(np.maximum(reference - lowest, 0.0))


def probability_below(mean: np.ndarray, deviation: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the probability of x <= level of normal variables; arguments are broadcast."""
    with np.errstate(divide="ignore", invalid="ignore"):
        uncertain = ndtr((level - mean) / deviation)
    return np.where(deviation > 0, uncertain, mean <= level)
