"""Images and their three splits: train, search-validation, test.

Which image belongs to which split depends on `data` alone, so that all seeds of all runs share
them. Whether images are kept in memory depends on their number and changes nothing else. The test
split is only read when it is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.errors import UserError
from configs.registry import import_all, load_plugins
from configs.schema import Config, Data
from configs.suggestions import did_you_mean
from experiments.console import console
from experiments.data import sources
from experiments.data.augmentation import image_transform
from experiments.data.batches import EvaluationBatches, TrainingBatches
from experiments.data.dividing import Divided, divide
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
from experiments.data.registry import SOURCES, Source

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
    split: Path | None = None,
) -> Splits:
    """Read the data of a configuration.

    The search-validation split is held out of the training images; so is the test split where the
    data has none of its own. What people should know of their files is printed.

    Args:
        batch_size: Of training; default is the supernet's.
        test: Whether the test split is needed. The search never asks for it.
        rank: Which of the processes this is; each has a share of every training batch.
        world_size: How many processes there are.
        statistics: File that keeps mean and deviation of the training images, so that all
            processes of a run use the same; None computes them.
        split: File that keeps which file is on which side; files that were added later are not
            used. None divides by the names of the files alone.

    Raises:
        UserError: Files are missing, empty or unreadable, or the classes don't match the space.
    """
    space, data, device = config.space, config.data, torch.device(device)
    load_plugins(config.plugins)
    divided = open_images(data, space.in_channels, split)
    images, train, validation = divided.images, divided.train, divided.validation
    notes = divided.notes
    classes = images.class_names
    if len(classes) != space.num_classes:
        raise UserError(
            f"space.num_classes: {space.num_classes} is not possible; {images.origin} "
            f"has {len(classes)} classes"
        )
    batch = batch_size or config.train.batch_size
    if len(train) < batch * world_size:
        processes = f" for {world_size} processes" if world_size > 1 else ""
        raise UserError(
            f"batch_size: {batch} is not possible; there are {len(train)} training images"
            + processes
        )
    calibration = divided.drawn[: config.evaluate.calibration_images]
    first, second = divided.halves
    tested = None
    if test:
        tested, about_test = divided.open_test()
        notes += about_test
    if rank == 0:
        say(notes)

    # Random-resized crops are cut from the files; whatever else is augmented image by image may
    # be so by other processes, which can't share a GPU's memory.
    one_by_one = data.crop_scale < 1 or bool(data.auto_augment)
    home = torch.device("cpu") if one_by_one else device
    in_memory = (
        len(train) + len(validation)
    ) * space.in_channels * space.input_size**2 <= data.memory_limit_mb * 2**20
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


def open_images(data: Data, channels: int, split: Path | None = None) -> Divided:
    """Open the data of a configuration, and divide it, without decoding it.

    Args:
        split: File of a work directory that keeps which file is on which side.

    Raises:
        UserError: There is no such source, a file is missing, empty or unreadable, or a key of
            `data` would have no effect.
    """
    return divide(find_source(data.name)(data, colour_mode(channels)), data, split)


def say(notes: Iterable[str]) -> None:
    """Tell people what they should know of their images, each sentence once a process."""
    for note in notes:
        _say_once(note.replace(os.path.join(os.getcwd(), ""), ""))  # a worker's paths are absolute


@functools.cache
def _say_once(note: str) -> None:
    console.print(f"Note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)


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


def describe(splits: Splits, config: Config) -> str:
    """Return one line about the data, for people."""
    sizes = ", ".join(f"{count} {name}" for name, count in splits.sizes.items())
    origin = config.data.name if not config.data.root else Path(config.data.root).name
    return f"{origin}: {sizes} images in {len(splits.class_names)} classes"
