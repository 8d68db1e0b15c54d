"""Images that are decoded once and kept on the device, where batches are cut and augmented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import Data
from experiments.data.preprocessing import Preprocessing, fit
from experiments.data.registry import Images


def decode(images: Images, indices: Iterable[int], size: int) -> Tensor:
    """Return images as uint8 (N, C, H, W), resized and centre-cropped to `size` pixels."""
    stacked = np.stack([np.asarray(fit(images.read(int(index)), size)) for index in indices])
    decoded = torch.from_numpy(stacked)
    grey = decoded.ndim == 3
    return decoded.unsqueeze(1) if grey else decoded.permute(0, 3, 1, 2).contiguous()


class MemoryImages:
    """uint8 images on a device, normalised when a batch is cut."""

    def __init__(
        self, images: Tensor, labels: np.ndarray, preprocessing: Preprocessing, device: Any
    ) -> None:
        self.images, self.labels = images.to(device), torch.from_numpy(labels).to(device)
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


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled, augmented batches; an incomplete last one is dropped."""

    source: MemoryImages
    batch_size: int
    data: Data
    seed: int
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        return len(self.source.labels) // (self.batch_size * self.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.source.labels.device
        order = np.random.default_rng((self.seed, 2, epoch)).permutation(len(self.source.labels))
        for step in range(start, self.steps_per_epoch):
            first = (step * self.world_size + self.rank) * self.batch_size
            chosen = torch.from_numpy(order[first : first + self.batch_size]).to(device)
            rng = np.random.default_rng((self.seed, 3, epoch, step, self.rank))
            images = self.source.normalize(self.source.images[chosen])
            images = augment(images, rng, self.data.crop_padding, self.data.flip)
            yield images, self.source.labels[chosen]


def augment(images: Tensor, rng: np.random.Generator, padding: int, flip: bool) -> Tensor:
    """Crop (B, C, H, W) at random after zero padding, and flip at random, each image on its own."""
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
