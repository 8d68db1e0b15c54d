"""Images and their three splits: train, search-validation, test.

Small images are decoded once and kept on the device, where batches are cut and augmented; large
ones go through timm's loader. Either way a batch is a pure function of the seed and its number,
and the test split is only read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import Config
from experiments.data.sources import Source, open_sources

EvaluationBatches = Iterable[tuple[Tensor, Tensor]]  # can be iterated again and again


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it; shipped with the weights."""

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Splits:
    """Batches of every split. `test` is None unless it was asked for."""

    train: Any
    calibration: EvaluationBatches
    validation: EvaluationBatches
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
) -> Splits:
    """Reads the data of a configuration.

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
    sources = open_sources(data, space.input_size, space.in_channels, config.seed)
    classes = sources.train.class_names
    if len(classes) != space.num_classes:
        raise UserError(
            f"space.num_classes: {space.num_classes} is not possible; {sources.train.origin} "
            f"has {len(classes)} classes"
        )
    labels = sources.train.labels
    kept = np.arange(len(labels))
    if data.limit and data.limit < len(kept):
        kept, _ = stratified_split(kept, labels, len(kept) - data.limit, config.seed, "data.limit")
    train, validation = stratified_split(
        kept, labels, data.validation_fraction, config.seed, "data.validation_fraction"
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
    sizes = {"train": len(train), "validation": len(validation)}

    tested: Sequence[int] = []
    if test:
        tested = range(len(sources.test.labels))
        sizes["test"] = len(tested)

    size, channels = space.input_size, space.in_channels
    megabytes = (len(kept) + len(tested)) * channels * size**2 / 2**20
    evaluation_batch = config.evaluate.batch_size
    if megabytes <= data.memory_limit_mb:
        images = sources.train.decode(np.concatenate([train, validation]))
        train_images, validation_images = images[: len(train)], images[len(train) :]
        mean, std = channel_statistics(train_images)
        preprocessing = Preprocessing(size, channels, mean, std)
        position = {int(index): i for i, index in enumerate(train)}

        def memory(images: Tensor, labels: np.ndarray) -> MemoryImages:
            return MemoryImages(images, torch.from_numpy(labels), preprocessing, device)

        train_set = memory(train_images, labels[train])
        picked = torch.tensor([position[int(i)] for i in calibration])
        return Splits(
            train=TrainingBatches(train_set, batch, config, rank, world_size),
            calibration=train_set.batches(evaluation_batch, picked, full=True),
            validation=memory(validation_images, labels[validation]).batches(evaluation_batch),
            test=memory(sources.test.decode(np.arange(len(tested))), sources.test.labels).batches(
                evaluation_batch
            )
            if test
            else None,
            class_names=classes,
            preprocessing=preprocessing,
            sizes=sizes,
        )

    from experiments.data.disk import EvaluationLoader, TrainingLoader, imagenet_statistics

    preprocessing = Preprocessing(size, channels, *imagenet_statistics(channels))

    def loader(source: Source, indices: Sequence[int], full: bool = False) -> EvaluationLoader:
        return EvaluationLoader(source, indices, preprocessing, config, device, full)

    return Splits(
        train=TrainingLoader(
            sources.train, train.tolist(), preprocessing, config, device, batch, rank, world_size
        ),
        calibration=loader(sources.train, calibration.tolist(), full=True),
        validation=loader(sources.train, validation.tolist()),
        test=loader(sources.test, tested) if test else None,
        class_names=classes,
        preprocessing=preprocessing,
        sizes=sizes,
    )


def stratified_split(
    indices: np.ndarray, labels: np.ndarray, held_out: float | int, seed: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts with equal shares of every class: (rest, held out).

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


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of uint8 (N, C, H, W) images per channel, on the scale 0-1."""
    values = images.transpose(0, 1).flatten(1).double() / 255
    mean, std = values.mean(1), values.std(1).clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())


class MemoryImages:
    """uint8 images on a device, normalised when a batch is cut."""

    def __init__(
        self, images: Tensor, labels: Tensor, preprocessing: Preprocessing, device: Any
    ) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        shape = (1, preprocessing.channels, 1, 1)
        self.mean = torch.tensor(preprocessing.mean, device=device).view(shape) * 255
        self.std = torch.tensor(preprocessing.std, device=device).view(shape) * 255

    def normalize(self, images: Tensor) -> Tensor:
        images = (images.float() - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)

    def batches(
        self, batch_size: int, indices: Tensor | None = None, full: bool = False
    ) -> MemoryBatches:
        chosen = torch.arange(len(self.labels)) if indices is None else indices
        return MemoryBatches(self, chosen, batch_size, full)


@dataclass(frozen=True)
class MemoryBatches:
    """The same batches at every iteration; `full` drops an incomplete last one of several."""

    source: MemoryImages
    indices: Tensor
    batch_size: int
    full: bool

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in self.indices.split(self.batch_size):
            if self.full and len(chosen) < self.batch_size < len(self.indices):
                return
            chosen = chosen.to(self.source.labels.device)
            yield self.source.normalize(self.source.images[chosen]), self.source.labels[chosen]


class TrainingBatches:
    """Shuffled, augmented batches; an incomplete last one is dropped."""

    def __init__(
        self, source: MemoryImages, batch_size: int, config: Config, rank: int, world_size: int
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, config.seed
        self.padding, self.flip = config.data.crop_padding, config.data.flip
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(source.labels) // (batch_size * world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.source.labels.device
        order = np.random.default_rng((self.seed, 2, epoch)).permutation(len(self.source.labels))
        for step in range(start, self.steps_per_epoch):
            first = (step * self.world_size + self.rank) * self.batch_size
            chosen = torch.from_numpy(order[first : first + self.batch_size]).to(device)
            rng = np.random.default_rng((self.seed, 3, epoch, step, self.rank))
            images = self.source.normalize(self.source.images[chosen])
            yield augment(images, rng, self.padding, self.flip), self.source.labels[chosen]


def augment(images: Tensor, rng: np.random.Generator, padding: int, flip: bool) -> Tensor:
    """Random crops after zero padding, and random flips, each image on its own."""
    count, _, height, width = images.shape
    device = images.device
    if padding:
        rows, columns = (
            torch.from_numpy(rng.integers(0, 2 * padding + 1, count)).to(device) for _ in range(2)
        )
        padded = torch.nn.functional.pad(images, (padding,) * 4)
        rows = (rows[:, None] + torch.arange(height, device=device))[:, :, None]
        columns = (columns[:, None] + torch.arange(width, device=device))[:, None, :]
        numbers = torch.arange(count, device=device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[numbers, rows, columns].permute(0, 3, 1, 2)
    if flip:
        flipped = torch.from_numpy(rng.random(count) < 0.5).to(device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def describe(splits: Splits, config: Config) -> str:
    """One line about the data, for people."""
    sizes = ", ".join(f"{count} {name}" for name, count in splits.sizes.items())
    origin = config.data.name if not config.data.root else Path(config.data.root).name
    return f"{origin}: {sizes} images in {len(splits.class_names)} classes"
