"""Images and their three splits: train, search-validation, test.

Which image belongs to which split depends on `data` alone, so that all seeds of all runs share
them. Whether images are kept in memory depends on their number and changes nothing else. The test
split is only read when it is asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.errors import UserError
from configs.registry import import_all, load_plugins
from configs.schema import Config, Data
from configs.suggestions import did_you_mean
from experiments.data import sources
from experiments.data.augmentation import image_transform
from experiments.data.batches import EvaluationBatches, TrainingBatches
from experiments.data.pixels import Pixels, stream
from experiments.data.preprocessing import (
    Normalizer,
    Preprocessing,
    Statistics,
    channel_statistics,
    colour_mode,
    store_statistics,
    stored_statistics,
)
from experiments.data.registry import SOURCES, Images, Source

COUNTED = 10_000  # training images at most whose mean and deviation are taken
LOOKS = 5  # batches of a half of validation, so that a search may read some of them only
LEAST = 32  # images of such a batch


@dataclass(frozen=True)
class Splits:
    """Batches of every split. `test` is None unless it was asked for.

    `halves` are the two parts of `validation`: a search selects on the first, of which it may read
    some batches only, and what it selected is read a second time from the other.
    """

    train: TrainingBatches
    calibration: EvaluationBatches
    validation: EvaluationBatches
    halves: tuple[EvaluationBatches, EvaluationBatches]
    test: EvaluationBatches | None
    class_names: list[str]
    preprocessing: Preprocessing
    sizes: dict[str, int]


def load_splits(
    config: Config,
    device: torch.device | str,
    batch_size: int | None = None,
    test: bool = False,
    rank: int = 0,
    world_size: int = 1,
    statistics: Path | None = None,
) -> Splits:
    """Read the data of a configuration.

    The search-validation split is held out of the training images, stratified; so is the test
    split where the data has none of its own.

    Args:
        batch_size: Of training; default is the supernet's.
        test: Whether the test split is needed. The search never asks for it.
        rank, world_size: This process's share of every training batch.
        statistics: File that keeps mean and deviation of the training images, so that all
            processes of a run use the same; None computes them.

    Raises:
        UserError: Files are missing, empty or unreadable, or the classes don't match the space.
    """
    space, data, device = config.space, config.data, torch.device(device)
    load_plugins(config.plugins)
    images, open_test = open_images(data, space.in_channels)
    classes = images.class_names
    if len(classes) != space.num_classes:
        raise UserError(
            f"space.num_classes: {space.num_classes} is not possible; {images.origin} "
            f"has {len(classes)} classes"
        )
    kept = np.arange(len(images.labels))
    if data.limit and data.limit < len(kept):
        over, key = len(kept) - data.limit, "data.limit"
        kept, _ = split_off(kept, images, over, data.split_seed, key)
    train, validation = _hold_out(kept, images, data, "validation_fraction")
    batch = batch_size or config.train.batch_size
    if len(train) < batch * world_size:
        processes = f" for {world_size} processes" if world_size > 1 else ""
        raise UserError(
            f"batch_size: {batch} is not possible; there are {len(train)} training images"
            + processes
        )
    rng = np.random.default_rng((data.split_seed, 1))
    calibration = rng.permutation(train)[: config.evaluate.calibration_images]
    tested = open_test() if test else None
    first, second = halve(validation, images, data.split_seed)

    # Random-resized crops are cut from the files; whatever else is augmented image by image may
    # be so by other processes, which can't share a GPU's memory.
    one_by_one = data.crop_scale < 1 or bool(data.auto_augment)
    home = torch.device("cpu") if one_by_one else device
    in_memory = len(kept) * space.in_channels * space.input_size**2 <= data.memory_limit_mb * 2**20
    pixels = Pixels(images, space.input_size, data.loading_workers)
    if in_memory:
        trained = calibration if data.crop_scale < 1 else train
        pixels.keep(np.concatenate([trained, validation]), home)
    preprocessing = Preprocessing(
        space.input_size, space.in_channels, *_statistics(pixels, train, config, statistics)
    )
    normalize = Normalizer(preprocessing, device)

    def evaluation(
        pixels: Pixels, indices: np.ndarray, full: bool = False, batches: int = 1
    ) -> EvaluationBatches:
        size = min(config.evaluate.batch_size, max(math.ceil(len(indices) / batches), LEAST))
        return EvaluationBatches(pixels, indices, normalize, device, size, full)

    tests = None
    if tested is not None:
        everything = np.arange(len(tested.labels))
        test_pixels = Pixels(tested, space.input_size, data.loading_workers)
        if in_memory:
            test_pixels.keep(everything, home)
        tests = evaluation(test_pixels, everything)
    sizes = {"train": len(train), "validation": len(validation)}
    return Splits(
        train=TrainingBatches(
            pixels, train, normalize, device, data, image_transform(data, preprocessing),
            config.seed, batch, rank, world_size,
        ),
        calibration=evaluation(pixels, calibration, full=True),
        validation=evaluation(pixels, validation),
        halves=(
            evaluation(pixels, first, batches=LOOKS),
            evaluation(pixels, second, batches=LOOKS),
        ),
        test=tests,
        class_names=classes,
        preprocessing=preprocessing,
        sizes=sizes if tested is None else {**sizes, "test": len(tested.labels)},
    )  # fmt: skip


def find_source(name: str) -> Callable[[Data, str], Source]:
    """Return the data source of a `data.name`.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    import_all(sources)
    kind = "timm" if "/" in name else name
    if kind not in SOURCES:
        hint = did_you_mean(name, sorted(SOURCES))
        raise UserError(
            f"data.name: {name!r} is no data source; {hint} "
            "(the name of a timm data set has a `/`, such as torch/cifar10)"
        )
    return SOURCES[kind]


def open_images(data: Data, channels: int) -> tuple[Images, Callable[[], Images]]:
    """Open the data of a configuration without decoding it.

    Returns:
        The training images, and what opens the test images; these are held out of the training
        images where the source has none.

    Raises:
        UserError: There is no such source, a file is missing, empty or unreadable, or a key of
            `data` would have no effect.
    """
    source: Source = find_source(data.name)(data, colour_mode(channels))
    train, open_test = source.train, source.test
    if open_test is None:
        everything = np.arange(len(train.labels))
        rest, held = _hold_out(everything, train, data, "test_fraction")
        return _subset(train, rest), lambda: _subset(train, held)
    if data.test_fraction != Data().test_fraction:
        raise UserError(
            f"data.test_fraction: {data.test_fraction} has no effect; {train.origin} has test "
            "images of its own"
        )
    return train, lambda: _of_equal_classes(open_test(), train)


def stratified_split(
    indices: np.ndarray, labels: np.ndarray, count: int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, `count` held out), both shuffled, with equal shares of every class.

    A class gives its share rounded down or up, so that the counts add up (largest remainders).

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
    order = np.random.default_rng((seed, 0)).permutation(len(indices))
    by_class = order[np.argsort(members[order], kind="stable")]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each image's class, in `by_class`
    held = np.zeros(len(indices), dtype=bool)
    held[by_class] = np.arange(len(indices)) - first < np.repeat(shares, sizes)
    return indices[order[~held[order]]], indices[order[held[order]]]


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


def _statistics(pixels: Pixels, train: np.ndarray, config: Config, file: Path | None) -> Statistics:
    """Return mean and deviation of the training images, from the file where it has them."""
    train = np.sort(train)
    if len(train) > COUNTED:
        train = train[np.linspace(0, len(train) - 1, COUNTED).astype(int)]
    numbers = np.stack([train, pixels.images.labels[train]])
    of = {
        "name": config.data.name,
        "root": os.path.abspath(config.data.root) if config.data.root else "",
        "size": pixels.size,
        "channels": config.space.in_channels,
        "images": hashlib.sha256(numbers.tobytes()).hexdigest()[:16],
    }
    if file is not None and (stored := stored_statistics(file, of)) is not None:
        return stored
    batches = np.array_split(train, math.ceil(len(train) / config.evaluate.batch_size))
    statistics = channel_statistics(stream(pixels, batches, "cpu"))
    if file is not None:
        store_statistics(file, of, statistics)
    return statistics


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


def describe(splits: Splits, config: Config) -> str:
    """Return one line about the data, for people."""
    sizes = ", ".join(f"{count} {name}" for name, count in splits.sizes.items())
    origin = config.data.name if not config.data.root else Path(config.data.root).name
    return f"{origin}: {sizes} images in {len(splits.class_names)} classes"


def _subset(images: Images, indices: np.ndarray) -> Images:
    indices = indices if images.versions == 1 else np.sort(indices)  # versions follow one another
    return Images(
        images.origin,
        images.labels[indices],
        images.class_names,
        lambda index: images.read(int(indices[index])),
        images.versions,
    )


def _of_equal_classes(test: Images, train: Images) -> Images:
    if test.class_names != train.class_names:
        different = sorted(set(test.class_names) ^ set(train.class_names))
        raise UserError(
            f"{test.origin}: its classes differ from those of {train.origin}: "
            f"{', '.join(map(str, different[:5]))}"
        )
    return test
