"""When to stop reading an architecture's accuracy: once it cannot reach a better one's any more."""

from __future__ import annotations

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
