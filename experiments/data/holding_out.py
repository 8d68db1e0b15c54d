"""Which images are held out: by the number of an image, or by the name of its file.

By number, shares are exact and of every class alike; for data that never changes. By name, every
file is drawn for itself, so that one more file moves no other; shares then are as exact as chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from configs.errors import UserError

TEST, VALIDATION, HALF, LIMIT, CALIBRATION = range(5)  # what random numbers of a name are for


def chances(names: Sequence[str], seed: int) -> np.ndarray:
    """Return numbers from 0 to 1 that a name and a seed decide, float64, shape (N, 5).

    They are hashes (5 µs a name), one for each of `TEST`, `VALIDATION`, ...
    """
    key = str(seed).encode()
    hashes = (
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=40, key=key).digest()
        for name in names
    )
    return np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 5) / 2.0**64


def draw(chance: np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
    """Return which images are held out, bool (N,): each with the probability `fraction`.

    Where none of a class would be, or all, the image that was closest to it changes sides: a class
    of two images has one on either side. Images of equal chance are never on two sides.

    Args:
        chance: Uniform numbers from 0 to 1, shape (N,); equal for images of equal content.
    """
    held = chance < fraction
    for label in np.setdiff1d(labels, labels[held]):
        of_class = chance[labels == label]
        if (of_class != of_class[0]).any():
            held |= chance == of_class.min()
    for label in np.setdiff1d(labels, labels[~held]):
        of_class = chance[labels == label]
        if (of_class != of_class[0]).any():
            held &= chance != of_class.max()
    if len(held) and not held.any():
        held = chance == chance.min()
    if len(held) and held.all():
        held = chance != chance.max()
    return held


def smallest(chance: np.ndarray, labels: np.ndarray, count: int, key: str) -> np.ndarray:
    """Return which images are kept, bool (N,): `count`, with equal shares of every class.

    They are those of the smallest chances. So one more image takes the place of at most one of each
    class, and nothing else changes.

    Raises:
        UserError: Nothing would be left of a class.
    """
    everything = np.arange(len(labels))
    kept = np.ones(len(labels), dtype=bool)
    order = np.argsort(-chance, kind="stable")
    kept[held_first(everything, labels, len(labels) - count, order, key)] = False
    return kept


def stratified_split(
    indices: np.ndarray, labels: np.ndarray, count: int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, `count` held out), both shuffled, with equal shares of every class.

    Raises:
        UserError: Nothing would be left of a class.
    """
    order = np.random.default_rng((seed, 0)).permutation(len(indices))
    held = np.zeros(len(indices), dtype=bool)
    held[held_first(indices, labels, count, order, key)] = True
    return indices[order[~held[order]]], indices[order[held[order]]]


def held_first(
    indices: np.ndarray, labels: np.ndarray, count: int, order: np.ndarray, key: str
) -> np.ndarray:
    """Return the places in `indices` of `count` images, with equal shares of every class.

    A class gives its share rounded down or up, so that the counts add up (largest remainders), and
    those that are first in `order`.

    Raises:
        UserError: Nothing would be left of a class.
    """
    _, members = np.unique(labels[indices], return_inverse=True)
    sizes = np.bincount(members)
    exact = sizes * count / len(indices)
    shares = np.floor(exact).astype(int)
    largest = np.argsort(shares - exact, kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    if (shares >= sizes).any():
        raise UserError(
            f"{key}: the {len(indices)} images can't be split so: with {count} fewer, a class of "
            f"{sizes[shares >= sizes].min()} would be left without images"
        )
    by_class = order[np.argsort(members[order], kind="stable")]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each image's class, in `by_class`
    return by_class[np.arange(len(indices)) - first < np.repeat(shares, sizes)]
