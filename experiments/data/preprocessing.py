"""What happens to an image before the network sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.atomic import write_atomically
from configs.errors import UserError
from configs.kept import read_or_none

MODES = {1: "L", 3: "RGB"}  # channels -> PIL's colour mode
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of every channel


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network; shipped with the weights.

    First `fit`, then mean and standard deviation, which are on the scale 0-1. `crop` and
    `interpolation` say what `fit` does, in timm's terms: the centre is that share of the resized
    image's shorter side.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"


def colour_mode(channels: int) -> str:
    """Return PIL's mode for a number of channels.

    Raises:
        UserError: Images have 1 or 3 channels.
    """
    if channels not in MODES:
        raise UserError(f"space.in_channels: {channels} is not possible for images; choose 1 or 3")
    return MODES[channels]


def fit(image: Any, size: int) -> Any:
    """Resize the shorter side of a PIL image to `size` pixels and cut out the centre."""
    if image.size == (size, size):
        return image
    from torchvision.transforms.functional import center_crop, resize

    return center_crop(resize(image, size), [size, size])


class Normalizer:
    """uint8 (B, C, H, W) on a device -> float32, centred and scaled, in channels-last order."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str) -> None:
        shape = (1, preprocessing.channels, 1, 1)
        self.mean = torch.tensor(preprocessing.mean, device=device).view(shape) * 255
        self.std = torch.tensor(preprocessing.std, device=device).view(shape) * 255

    def __call__(self, pixels: Tensor) -> Tensor:
        images = (pixels.float() - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)


def channel_statistics(batches: Iterable[Tensor]) -> Statistics:
    """Return mean and standard deviation per channel of uint8 (B, C, H, W), on the scale 0-1.

    The pixels of every value are counted, so that neither the order of the images nor the size of
    the batches changes the result by a bit.
    """
    total = None
    for pixels in batches:
        channels = pixels.transpose(0, 1).flatten(1).int()
        counts = torch.stack([channel.bincount(minlength=256) for channel in channels]).cpu()
        total = counts if total is None else total + counts
    assert total is not None
    number, values = total.numpy(), np.arange(256)  # (channels, 256)
    count = number.sum(1)
    sums, squares = (number * values).sum(1), (number * values**2).sum(1)
    mean = sums / count
    variance = (squares - sums * mean) / (count - 1)
    std = np.sqrt(np.maximum(variance, 0)) / 255
    return tuple((mean / 255).tolist()), tuple(np.maximum(std, 1e-3).tolist())


def stored_statistics(file: Path, of: dict[str, Any]) -> Statistics | None:
    """Return what `store_statistics` wrote for the same images; None where it did not."""
    stored = read_or_none(file, _stored, "mean and deviation are taken again")
    return stored[1] if stored is not None and stored[0] == of else None


def are_stored(file: Path) -> bool:
    """Return whether there are statistics of any images."""
    return read_or_none(file, _stored, "mean and deviation are taken again") is not None


def _stored(values: Any) -> tuple[dict[str, Any], Statistics]:
    mean, std = (tuple(map(float, values[key])) for key in ("mean", "std"))
    return values["of"], (mean, std)


def store_statistics(file: Path, of: dict[str, Any], statistics: Statistics) -> None:
    """Write statistics, and the images they are `of`, atomically."""
    mean, std = statistics
    write_atomically(file, json.dumps({"of": of, "mean": mean, "std": std}, indent=1))
