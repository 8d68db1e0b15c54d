"""Pareto front and hypervolume of small point sets, in any number of objectives.

All functions take losses: every objective is to be minimised (`Goal.losses` flips the signs).
"""

from __future__ import annotations

import numpy as np

AT_ONCE = 256  # points that are compared with all others in one step
REFERENCE_MARGIN = 0.1  # how far beyond the worst value the reference point lies, in ranges


def non_dominated(losses: np.ndarray) -> np.ndarray:
    """Mark the points that no other point dominates.

    A point dominates another when it is nowhere worse and somewhere better; of equal points each
    is kept.

    Returns:
        A boolean mask, shape (points,).
    """
    keep = np.ones(len(losses), dtype=bool)
    for start in range(0, len(losses), AT_ONCE):
        points = losses[start : start + AT_ONCE]
        no_worse = (losses[:, None] <= points).all(axis=2)
        better = (losses[:, None] < points).any(axis=2)
        keep[start : start + AT_ONCE] = ~(no_worse & better).any(axis=0)
    return keep


def reference_point(losses: np.ndarray) -> np.ndarray:
    """Return where a hypervolume is measured from: the worst of each objective and a tenth more.

    The tenth (of the range; of the value itself where all are equal) lets the extreme points of
    the front count too.
    """
    worst = losses.max(axis=0)
    span = worst - losses.min(axis=0)
    span = np.where(span > 0, span, np.maximum(np.abs(worst), 1e-12))
    return worst + REFERENCE_MARGIN * span


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Return the exact volume that the points dominate, up to the reference point.

    Points that don't lie strictly below the reference in every objective add nothing. Slices
    along the last objective, recursively (Knowles 2002; Zitzler's "hypervolume by slicing
    objectives"): exact, and fast enough for fronts of some hundred points in 2 to 4 objectives.
    """
    points = losses[(losses < reference).all(axis=1)]
    if len(points) == 0:
        return 0.0
    points = points[np.argsort(points[:, -1], kind="stable")]
    depths = np.diff(np.append(points[:, -1], reference[-1]))
    if points.shape[1] == 1:
        return float(depths.sum())
    if points.shape[1] == 2:
        widths = reference[0] - np.minimum.accumulate(points[:, 0])
        return float((widths * depths).sum())
    return sum(
        float(depth) * hypervolume(_front(points[: index + 1, :-1]), reference[:-1])
        for index, depth in enumerate(depths)
        if depth > 0
    )


def _front(losses: np.ndarray) -> np.ndarray:
    return losses[non_dominated(losses)]
