"""Files of equal content, found by reading as little as possible."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments.data.registry import Files

HEAD = 4096  # bytes that are compared before all are

Place = tuple[int, int]  # which of several lists of files, and which file of it


def equal_files(parts: Sequence[tuple[Files, np.ndarray]]) -> list[list[Place]]:
    """Return groups of two or more files of equal content, over several lists of files.

    Files whose size no other has are not opened. Of the others the first `HEAD` bytes are hashed,
    and all of those that are alike until there.

    Args:
        parts: Files, and the numbers of those that are compared.
    """
    same_size: dict[int, list[Place]] = defaultdict(list)
    for part, (files, indices) in enumerate(parts):
        for index in indices.tolist():
            same_size[int(files.sizes[index])].append((part, index))

    def content(place: Place, count: int) -> bytes:
        part, index = place
        return parts[part][0].content(index, count)

    groups = []
    for size, places in same_size.items():
        for alike in _by_hash(places, content, HEAD):
            groups += [alike] if size <= HEAD else _by_hash(alike, content, -1)
    return groups


def representatives(files: Files, groups: Iterable[Sequence[Place]]) -> np.ndarray:
    """Return for each file the number of the one that stands for all of its content, (N,).

    It is the one of the shortest name, which is rarely that of a copy.
    """
    found = np.arange(len(files.names))
    for group in groups:
        members = [index for _, index in group]
        found[members] = min(members, key=lambda i: (len(files.names[i]), files.names[i]))
    return found


def _by_hash(
    places: Sequence[Place], content: Callable[[Place, int], bytes], count: int
) -> list[list[Place]]:
    if len(places) < 2:
        return []
    alike: dict[bytes, list[Place]] = defaultdict(list)
    for place in places:
        alike[hashlib.blake2b(content(place, count), digest_size=16).digest()].append(place)
    return [group for group in alike.values() if len(group) > 1]
