"""When to stop reading an architecture: once it cannot reach a better one any more."""

from __future__ import annotations

import math

from evaluators.accuracy import Reading

ERROR = 0.01  # how often an architecture may be stopped that would have reached the other


def cannot_reach(correct: int, images: int, needed: int, total: int, looks: int) -> bool:
    """Return whether too few of the images read so far are right.

    The images are drawn from `total` without replacement, so that the number of right ones among
    them is hypergeometric, were `needed` of all right, and with more needed it would be larger. Its
    distribution gives an exact test, with which the bounds for it (Hoeffding, Serfling: The Annals
    of Statistics 2, 1974) are not needed; it is certain where even right answers to all the other
    images would not suffice. An architecture that would reach `needed` is stopped at one of all
    looks with a probability of `ERROR` at most (Bonferroni).

    Args:
        correct: Right answers among `images`, which are read in random order.
        needed: Right answers that the architecture would have to give to all `total` images.
        looks: How often this is asked of an architecture, at most.
    """
    from scipy.stats import hypergeom  # takes half a second

    return bool(hypergeom.cdf(correct, total, needed, images) <= ERROR / looks)


def stays_above(reading: Reading, to_reach: float, total: int, looks: int) -> bool:
    """Return whether the mean cross entropy of all images will not come down to another one's.

    The mean of all is that of the images read so far and that of the others, which are drawn from
    the same: their difference is normal, nearly, with the variance of sampling without replacement
    (Cochran, Sampling Techniques, 1977, section 2.6). An architecture that would reach the other is
    stopped at one of all looks with a probability of `ERROR`, nearly (Bonferroni).

    Args:
        reading: Of images in random order, 30 at least to be trusted.
        to_reach: Mean cross entropy of another architecture on the same `total` images.
        looks: How often this is asked of an architecture, at most.
    """
    from scipy.stats import norm

    images = reading.images
    error = reading.deviation * math.sqrt((1 - images / total) / images)
    return bool(reading.cross_entropy - norm.isf(ERROR / looks) * error > to_reach)
