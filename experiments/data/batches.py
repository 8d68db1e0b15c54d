"""Batches as pure functions of a seed and their number, whatever the storage of the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import Data
from experiments.data.augmentation import CHANCES, shift_and_mirror
from experiments.data.pixels import AugmentedPixels, Pixels, stream
from experiments.data.preprocessing import Normalizer


@dataclass(frozen=True)
class EvaluationBatches:
    """The same batches at every iteration; `full` drops an incomplete last one of several."""

    pixels: Pixels
    indices: np.ndarray
    normalize: Normalizer
    device: torch.device
    batch_size: int
    full: bool = False

    @property
    def images(self) -> int:
        """The number of images in all batches."""
        count, size = len(self.indices), self.batch_size
        return count // size * size if self.full and count > size else count

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.batch_size
        batches = [self.indices[i : i + size] for i in range(0, self.images, size)]
        labels = self.pixels.images.labels
        for pixels, chosen in zip(stream(self.pixels, batches, self.device), batches):
            yield self.normalize(pixels), torch.from_numpy(labels[chosen]).to(self.device)


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled, augmented batches; an incomplete last one is dropped.

    Args:
        transform: What is done to single PIL images.
        seed: Of order and augmentation: a training of another seed has batches of its own.
        batch_size: Of this process.
        rank, world_size: This process's share of every batch of all.
    """

    pixels: Pixels
    indices: np.ndarray
    normalize: Normalizer
    device: torch.device
    data: Data
    transform: Callable[[Any], Any] | None
    seed: int
    batch_size: int
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches that every process has in an epoch."""
        return len(self.indices) // (self.batch_size * self.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, C, H, W) and labels (B,) of one epoch, from batch `start` on."""
        order = np.random.default_rng((self.seed, 2, epoch)).permutation(self.indices)
        used = order[: self.steps_per_epoch * self.world_size * self.batch_size]
        shares = used.reshape(self.steps_per_epoch, self.world_size, self.batch_size)
        batches = list(shares[start:, self.rank])
        labels, data = self.pixels.images.labels, self.data
        chances = np.random.default_rng((self.seed, 3, epoch)).random((len(labels), CHANCES))
        source: Pixels | AugmentedPixels = self.pixels
        if self.transform is not None:
            seed, whole = (self.seed, 4, epoch), data.crop_scale < 1
            source = AugmentedPixels(self.pixels, self.transform, whole, seed, data.loading_workers)
        for pixels, chosen in zip(stream(source, batches, self.device), batches):
            images = shift_and_mirror(
                self.normalize(pixels), chances[chosen], data.crop_padding, data.flip
            )
            yield images, torch.from_numpy(labels[chosen]).to(self.device)
