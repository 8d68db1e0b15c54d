"""Images and their three splits: train, search-validation, test.

Small images are kept in memory, large ones are read from disk. Either way a batch is a pure
function of the seed and its number, and the test split is only read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.registry import import_all, load_plugins
from configs.schema import Config, Data
from configs.suggestions import did_you_mean
from experiments.data import sources
from experiments.data.disk import EvaluationLoader, TrainingLoader
from experiments.data.memory import MemoryImages, TrainingBatches, decode
from experiments.data.preprocessing import (
    Preprocessing,
    channel_statistics,
    colour_mode,
    imagenet_statistics,
)
from experiments.data.registry import SOURCES, Images, Source

EvaluationBatches = Iterable[tuple[Tensor, Tensor]]  # can be iterated again and again


@dataclass(frozen=True)
class Splits:
    """Batches of every split. `test` is None unless it was asked for.

    `halves` are the two parts of `validation`: a search selects on the first, and what it selected
    is read a second time from the other.
    """

    train: Any
    calibration: EvaluationBatches
    validation: EvaluationBatches
    halves: tuple[EvaluationBatches, EvaluationBatches]
    test: EvaluationBatches | None
    class_names: list[str]
    preprocessing: Preprocessing
    sizes: dict[str, int]


@dataclass(frozen=True)
class Parts:
    """Which images are which: indices into `images`, and all of `tested`."""

    images: Images
    train: np.ndarray
    calibration: np.ndarray  # some of the training images
    validation: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]  # of the validation images
    tested: Images | None


def load_splits(
    config: Config,
    device: torch.device | str,
    batch_size: int | None = None,
    test: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Splits:
    """Read the data of a configuration.

    The search-validation split is held out of the training images, stratified and seeded; so is
    the test split where the data has none of its own.

    Args:
        batch_size: Of training; default is the supernet's.
        test: Whether the test split is needed. The search never asks for it.
        rank, world_size: This process's share of every training batch.

    Raises:
        UserError: Files are missing, empty or unreadable, or the classes don't match the space.
    """
    space, data = config.space, config.data
    load_plugins(config.plugins)
    images, open_test = open_images(data, space.in_channels, config.seed)
    classes = images.class_names
    if len(classes) != space.num_classes:
        raise UserError(
            f"space.num_classes: {space.num_classes} is not possible; {images.origin} "
            f"has {len(classes)} classes"
        )
    kept = np.arange(len(images.labels))
    if data.limit and data.limit < len(kept):
        over = len(kept) - data.limit
        kept, _ = stratified_split(kept, images.labels, over, config.seed, "data.limit")
    train, validation = stratified_split(
        kept, images.labels, data.validation_fraction, config.seed, "data.validation_fraction"
    )
    batch = batch_size or config.train.batch_size
    if len(train) < batch * world_size:
        processes = f" for {world_size} processes" if world_size > 1 else ""
        raise UserError(
            f"batch_size: {batch} is not possible; there are {len(train)} training images"
            + processes
        )
    rng = np.random.default_rng((config.seed, 1))
    calibration = rng.permutation(train)[: config.evaluate.calibration_images]
    tested = open_test() if test else None
    halves = halve(validation, images.labels, config.seed)
    parts = Parts(images, train, calibration, validation, halves, tested)

    count = len(kept) + (len(tested.labels) if tested else 0)
    megabytes = count * space.in_channels * space.input_size**2 / 2**20
    load = _in_memory if megabytes <= data.memory_limit_mb else _from_disk
    return load(parts, config, device, batch, rank, world_size)


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


def open_images(data: Data, channels: int, seed: int) -> tuple[Images, Callable[[], Images]]:
    """Open the data of a configuration without decoding it.

    Returns:
        The training images, and what opens the test images; these are held out of the training
        images where the source has none.

    Raises:
        UserError: There is no such source, or a file is missing, empty or unreadable.
    """
    source = find_source(data.name)(data, colour_mode(channels))
    train, open_test = source.train, source.test
    if open_test is None:
        everything = np.arange(len(train.labels))
        rest, held = stratified_split(
            everything, train.labels, data.test_fraction, seed, "data.test_fraction"
        )
        return _subset(train, rest), lambda: _subset(train, held)
    return train, lambda: _of_equal_classes(open_test(), train)


def stratified_split(
    indices: np.ndarray, labels: np.ndarray, held_out: float | int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return two parts with equal shares of every class: (rest, held out).

    Raises:
        UserError: Some class has too few images for that.
    """
    from sklearn.model_selection import train_test_split

    try:
        rest, held = train_test_split(
            indices, test_size=held_out, stratify=labels[indices], random_state=seed
        )
    except ValueError as error:
        raise UserError(f"{key}: the {len(indices)} images can't be split so: {error}") from None
    return rest, held


def halve(indices: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves with equal shares of every class, one image more or less."""
    drawn = np.random.default_rng((seed, 5)).permutation(indices)
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    return by_class[::2], by_class[1::2]


def describe(splits: Splits, config: Config) -> str:
    """Return one line about the data, for people."""
    sizes = ", ".join(f"{count} {name}" for name, count in splits.sizes.items())
    origin = config.data.name if not config.data.root else Path(config.data.root).name
    return f"{origin}: {sizes} images in {len(splits.class_names)} classes"


def _subset(images: Images, indices: np.ndarray) -> Images:
    return Images(
        images.origin,
        images.labels[indices],
        images.class_names,
        lambda index: images.read(int(indices[index])),
    )


def _of_equal_classes(test: Images, train: Images) -> Images:
    if test.class_names != train.class_names:
        different = sorted(set(test.class_names) ^ set(train.class_names))
        raise UserError(
            f"{test.origin}: its classes differ from those of {train.origin}: "
            f"{', '.join(map(str, different[:5]))}"
        )
    return test


def _in_memory(
    parts: Parts, config: Config, device: Any, batch: int, rank: int, world_size: int
) -> Splits:
    space, evaluation_batch = config.space, config.evaluate.batch_size
    images, train, validation, tested = parts.images, parts.train, parts.validation, parts.tested
    decoded = decode(images, np.concatenate([train, validation]), space.input_size)
    train_images, validation_images = decoded[: len(train)], decoded[len(train) :]
    statistics = channel_statistics(train_images)
    preprocessing = Preprocessing(space.input_size, space.in_channels, *statistics)

    def memory(pixels: Tensor, labels: np.ndarray) -> MemoryImages:
        return MemoryImages(pixels, labels, preprocessing, device)

    train_set = memory(train_images, images.labels[train])
    validation_set = memory(validation_images, images.labels[validation])
    position = {int(index): place for place, index in enumerate(train)}
    picked = torch.tensor([position[int(index)] for index in parts.calibration])
    place = {int(index): number for number, index in enumerate(validation)}
    first, second = (torch.tensor([place[int(i)] for i in half]) for half in parts.halves)
    test = None
    if tested is not None:
        pixels = decode(tested, range(len(tested.labels)), space.input_size)
        test = memory(pixels, tested.labels).batches(evaluation_batch)
    return Splits(
        train=TrainingBatches(train_set, batch, config, rank, world_size),
        calibration=train_set.batches(evaluation_batch, picked, full=True),
        validation=validation_set.batches(evaluation_batch),
        halves=(
            validation_set.batches(evaluation_batch, first),
            validation_set.batches(evaluation_batch, second),
        ),
        test=test,
        class_names=images.class_names,
        preprocessing=preprocessing,
        sizes=_sizes(parts),
    )


def _from_disk(
    parts: Parts, config: Config, device: Any, batch: int, rank: int, world_size: int
) -> Splits:
    space, images, tested = config.space, parts.images, parts.tested
    statistics = imagenet_statistics(space.in_channels)
    preprocessing = Preprocessing(space.input_size, space.in_channels, *statistics)

    def loader(images: Images, indices: Sequence[int], full: bool = False) -> EvaluationLoader:
        return EvaluationLoader(images, indices, preprocessing, config, device, full)

    return Splits(
        train=TrainingLoader(
            images, parts.train.tolist(), preprocessing, config, device, batch, rank, world_size
        ),
        calibration=loader(images, parts.calibration.tolist(), full=True),
        validation=loader(images, parts.validation.tolist()),
        halves=(
            loader(images, parts.halves[0].tolist()),
            loader(images, parts.halves[1].tolist()),
        ),
        test=None if tested is None else loader(tested, range(len(tested.labels))),
        class_names=images.class_names,
        preprocessing=preprocessing,
        sizes=_sizes(parts),
    )


def _sizes(parts: Parts) -> dict[str, int]:
    sizes = {"train": len(parts.train), "validation": len(parts.validation)}
    return sizes if parts.tested is None else {**sizes, "test": len(parts.tested.labels)}
