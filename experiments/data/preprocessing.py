"""What happens to an image before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from configs.errors import UserError

MODES = {1: "L", 3: "RGB"}  # channels -> PIL's colour mode


@dataclass(frozen=True)
class Preprocessing:
    """Size in pixels, channels, and the statistics on the scale 0-1; shipped with the weights."""

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


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


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 (N, C, H, W), on the scale 0-1."""
    values = images.transpose(0, 1).flatten(1).double() / 255
    mean, std = values.mean(1), values.std(1).clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())


def imagenet_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return timm's default mean and standard deviation; 0.5 for grey images."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if channels == 3 else ((0.5,), (0.5,))
