"""Divides images into the sides of a split; nothing is decoded.

Images that are files are divided by their names (`experiments.data.holding_out`): one more file
moves no other. Files of equal content are on one side. A work directory keeps what was decided.
Other images are divided by their numbers, which never change.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.schema import Data
from experiments.data.duplicates import Place, equal_files, representatives
from experiments.data.holding_out import (
    CALIBRATION,
    HALF,
    LIMIT,
    TEST,
    VALIDATION,
    chances,
    draw,
    smallest,
    stratified_split,
)
from experiments.data.kept_split import SIDES, Kept, changes, read_split, write_split
from experiments.data.registry import Files, Images, Source

TRAINED, FIRST, SECOND, UNUSED, TESTED = range(5)  # in the order of `SIDES`


@dataclass(frozen=True)
class Divided:
    """Images, and the numbers of those on each side.

    Attributes:
        images: All but those of the test split.
        drawn: The training images in a random order that no seed of a training changes.
        halves: Both in random order: their first images say of the others what any would.
        open_test: Open the test images, and return sentences about them.
        notes: What people should know, a sentence each.
    """

    images: Images
    train: np.ndarray
    drawn: np.ndarray
    validation: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    open_test: Callable[[], tuple[Images, tuple[str, ...]]]
    notes: tuple[str, ...] = ()


def divide(source: Source, data: Data, file: Path | None = None) -> Divided:
    """Divide the images of a source by the fractions and the seed of `data`.

    Args:
        file: Where the split of a work directory is kept; None keeps none.

    Raises:
        UserError: A class would have no image on some side, or `data.test_fraction` no effect.
    """
    if source.test is not None and data.test_fraction != Data().test_fraction:
        raise UserError(
            f"data.test_fraction: {data.test_fraction} has no effect; {source.train.origin} has "
            "test images of its own"
        )
    files = source.train.files
    return _by_number(source, data) if files is None else _by_name(source, files, data, file)


def subset(images: Images, indices: np.ndarray) -> Images:
    """Return some of the images; all versions of a thing follow one another as before."""
    indices = indices if images.versions == 1 else np.sort(indices)
    return Images(
        images.origin,
        images.labels[indices],
        images.class_names,
        lambda index: images.read(int(indices[index])),
        images.versions,
    )


# By name


def _by_name(source: Source, files: Files, data: Data, file: Path | None) -> Divided:
    images = source.train
    names = np.array(files.names, dtype=object)
    of = {
        "name": data.name,
        "root": os.path.abspath(data.root) if data.root else "",
        "split_seed": data.split_seed,
        "validation_fraction": data.validation_fraction,
        "test_fraction": data.test_fraction,
        "limit": data.limit,
    }
    notes = list(images.notes)
    chance = chances(files.names, data.split_seed)
    kept = read_split(file, of) if file is not None else None
    if kept is None:
        if file is not None and file.exists():
            notes.append(f"{file} is damaged, or of other settings of `data`: split by name anew")
        sides, found = _draw_sides(images, files, data, chance, source.test is None)
        notes += found
        members = range(TESTED + 1 if source.test is None else TESTED)
        kept = {SIDES[side]: names[sides == side].tolist() for side in members}
        if file is not None:
            write_split(file, of, kept)
    else:
        here = {k: v for k, v in kept.items() if k != SIDES[TESTED] or source.test is None}
        found = changes(here, files.names, f"{file} has the split")
        notes += [f"{images.origin}: {change}" for change in found]
        side_of = {name: SIDES.index(side) for side, some in here.items() for name in some}
        sides = np.array([side_of.get(name, UNUSED) for name in files.names])
    used = np.flatnonzero(np.isin(sides, (TRAINED, FIRST, SECOND)))
    side, chance = sides[used], chance[used]

    def ordered(members: np.ndarray, purpose: int) -> np.ndarray:
        return members[np.argsort(chance[members, purpose], kind="stable")]

    train = np.flatnonzero(side == TRAINED)
    first, second = (ordered(np.flatnonzero(side == half), HALF) for half in (FIRST, SECOND))

    def open_test() -> tuple[Images, tuple[str, ...]]:
        if source.test is None:
            return subset(images, np.flatnonzero(sides == TESTED)), ()
        test = _of_equal_classes(source.test(), images)
        return _clean_test(test, images, used, kept, of, file)

    return Divided(
        subset(images, used),
        train,
        ordered(train, CALIBRATION),
        np.concatenate([first, second]),
        (first, second),
        open_test,
        tuple(notes),
    )


def _draw_sides(
    images: Images, files: Files, data: Data, chance: np.ndarray, with_test: bool
) -> tuple[np.ndarray, list[str]]:
    """Return the side of every file, (N,), and what there is to say."""
    labels = images.labels
    sides = np.full(len(labels), TRAINED)
    kept = np.arange(len(labels))
    if not with_test and 0 < data.limit < len(kept):  # what is not used need not be compared
        kept = kept[smallest(chance[:, LIMIT], labels, data.limit, "data.limit")]
    groups = equal_files([(files, kept)])
    chance = chance[_standing_for(representatives(files, groups), labels)]

    def held(kept: np.ndarray, purpose: int, key: str) -> np.ndarray:
        fraction = getattr(data, key)
        out = draw(chance[kept, purpose], labels[kept], fraction)
        for part in (out, ~out):
            gone = np.setdiff1d(labels[kept], labels[kept][part])
            if gone.size:
                images_of = int((labels[kept] == gone[0]).sum())
                raise UserError(
                    f"data.{key}: {fraction} of {len(kept)} images can't be held out: class "
                    f"{images.class_names[gone[0]]!r} has {images_of}, too few for both sides"
                )
        return out

    if with_test:
        tested = held(kept, TEST, "test_fraction")
        sides[kept[tested]] = TESTED
        kept = kept[~tested]
        if 0 < data.limit < len(kept):
            kept = kept[smallest(chance[kept, LIMIT], labels[kept], data.limit, "data.limit")]
    sides[np.setdiff1d(np.flatnonzero(sides == TRAINED), kept)] = UNUSED
    validation = kept[held(kept, VALIDATION, "validation_fraction")]
    first = draw(chance[validation, HALF], labels[validation], 0.5)
    sides[validation] = np.where(first, FIRST, SECOND)
    return sides, _about_copies(images, groups)


def _standing_for(representatives: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Let every image stand for itself in a class that has copies of a single one only."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    of_class = representatives[order]
    alone = np.minimum.reduceat(of_class, starts) == np.maximum.reduceat(of_class, starts)
    split = np.isin(labels, labels[order][starts[alone]])
    return np.where(split, np.arange(len(labels)), representatives)


def _about_copies(images: Images, groups: Sequence[Sequence[Place]]) -> list[str]:
    """Return a sentence on files of equal content, and one on those of several classes."""
    assert images.files is not None
    names, said = images.files.names, []
    if groups:
        count = sum(map(len, groups)) - len(groups)
        a, b = (names[index] for _, index in groups[0][:2])
        said.append(f"{images.origin}: {count} images are copies, such as {a} = {b}; "
                    "copies are on one side of the split, if a class has other images")  # fmt: skip
    several = [group for group in groups if len({int(images.labels[i]) for _, i in group}) > 1]
    if several:
        shown = "; ".join(" = ".join(names[i] for _, i in group[:3]) for group in several[:3])
        said.append(f"{images.origin}: {len(several)} images are in several classes: {shown}")
    return said


def _clean_test(
    test: Images, images: Images, used: np.ndarray, kept: Kept, of: dict[str, Any],
    file: Path | None,
) -> tuple[Images, tuple[str, ...]]:  # fmt: skip
    """Leave out test images that are copies of other images, or were added to a kept split."""
    if test.files is None or images.files is None:
        return test, ()
    names, notes = test.files.names, list(test.notes)
    tested = kept.get(SIDES[TESTED])
    if tested is None:
        groups = equal_files([(images.files, used), (test.files, np.arange(len(names)))])
        shared = [group for group in groups if len({part for part, _ in group}) == 2]
        copies = {index for group in shared for part, index in group if part == 1}
        if copies:
            (_, seen), copy = shared[0][0], next(i for part, i in shared[0] if part == 1)
            count = len(copies)
            notes.append(
                f"{test.origin}: {count} images are copies of training or validation images and "
                f"not tested, such as {names[copy]} = {images.files.names[seen]}"
            )
        tested = [name for index, name in enumerate(names) if index not in copies]
        if file is not None:
            left_out = [names[index] for index in sorted(copies)]
            write_split(file, of, {**kept, SIDES[TESTED]: tested, "copies": left_out})
    else:
        found = changes({SIDES[TESTED]: tested}, names, f"{file} has the split")
        notes += [f"{test.origin}: {change}" for change in found]
    chosen = set(tested)
    indices = np.array([i for i, name in enumerate(names) if name in chosen], dtype=np.int64)
    if not len(indices):
        raise UserError(f"{test.origin}: no test image is left that is no copy of another")
    return subset(test, indices), tuple(notes)


def _of_equal_classes(test: Images, train: Images) -> Images:
    if test.class_names != train.class_names:
        different = sorted(set(test.class_names) ^ set(train.class_names))
        raise UserError(
            f"{test.origin}: its classes differ from those of {train.origin}: "
            f"{', '.join(map(str, different[:5]))}"
        )
    return test


# By number


def _by_number(source: Source, data: Data) -> Divided:
    images, notes, test = source.train, source.train.notes, source.test
    if test is None:
        everything = np.arange(len(images.labels))
        rest, held = _hold_out(everything, images, data, "test_fraction")
        images, whole = subset(images, rest), images

        def open_test() -> tuple[Images, tuple[str, ...]]:
            return subset(whole, held), ()
    else:

        def open_test() -> tuple[Images, tuple[str, ...]]:
            opened = _of_equal_classes(test(), images)
            return opened, opened.notes

    kept = np.arange(len(images.labels))
    if data.limit and data.limit < len(kept):
        over, key = len(kept) - data.limit, "data.limit"
        kept, _ = split_off(kept, images, over, data.split_seed, key)
    train, validation = _hold_out(kept, images, data, "validation_fraction")
    drawn = np.random.default_rng((data.split_seed, 1)).permutation(train)
    halves = halve(validation, images, data.split_seed)
    return Divided(images, train, drawn, validation, halves, open_test, notes)


def split_off(
    indices: np.ndarray, images: Images, count: int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, about `count` held out) of some images, see `stratified_split`.

    The versions of one thing are all held out, or none of them.
    """
    versions = images.versions
    if versions == 1:
        return stratified_split(indices, images.labels, count, seed, key)
    things = np.unique(indices // versions)
    parts = stratified_split(things, images.labels[::versions], -(-count // versions), seed, key)
    return _versions_of(parts[0], versions, seed), _versions_of(parts[1], versions, seed)


def _versions_of(things: np.ndarray, versions: int, seed: int) -> np.ndarray:
    """Return the numbers of all images of some things, shuffled."""
    every = (versions * things[:, None] + np.arange(versions)).ravel()
    return np.random.default_rng((seed, 6)).permutation(every)


def _hold_out(
    indices: np.ndarray, images: Images, data: Data, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, held out) for one of the fractions of `data`."""
    fraction, classes = getattr(data, key), len(np.unique(images.labels[indices]))
    count = math.ceil(fraction * len(indices))
    if count < classes:
        raise UserError(
            f"data.{key}: {fraction} of {len(indices)} images can't be held out: {count} "
            f"images don't cover {classes} classes"
        )
    return split_off(indices, images, count, data.split_seed, f"data.{key}")


def halve(indices: np.ndarray, images: Images, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves with equal shares of every class, one thing more or less.

    Both are in random order: their first images say of the others what any of them would.
    """
    versions = images.versions
    things = np.unique(indices // versions) if versions > 1 else indices
    drawn = np.random.default_rng((seed, 5)).permutation(things)
    by_class = np.argsort(images.labels[::versions][drawn], kind="stable")
    halves = drawn[np.sort(by_class[::2])], drawn[np.sort(by_class[1::2])]
    if versions == 1:
        return halves
    return _versions_of(halves[0], versions, seed), _versions_of(halves[1], versions, seed)
