"""What a training changes in its images at random; the same wherever they are kept.

Shifting and mirroring are arithmetic on a whole batch, on its device. Random-resized crops and
timm's policies take PIL images, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import Data
from experiments.data.preprocessing import Preprocessing

CHANCES = 3  # random numbers that `shift_and_mirror` takes for an image


def shift_and_mirror(images: Tensor, chances: np.ndarray, padding: int, flip: bool) -> Tensor:
    """Crop (B, C, H, W) anywhere after zero padding, and mirror half, each image on its own.

    Args:
        chances: Uniform random numbers in [0, 1), shape (B, CHANCES).
    """
    count, _, height, width = images.shape
    device = images.device
    if padding:
        offsets = (chances[:, :2] * (2 * padding + 1)).astype(np.int64)
        rows, columns = torch.from_numpy(offsets).to(device).unbind(1)
        padded = torch.nn.functional.pad(images, (padding,) * 4)
        rows = (rows[:, None] + torch.arange(height, device=device))[:, :, None]
        columns = (columns[:, None] + torch.arange(width, device=device))[:, None, :]
        numbers = torch.arange(count, device=device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[numbers, rows, columns].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.from_numpy(chances[:, 2] < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def image_transform(data: Data, preprocessing: Preprocessing) -> Callable[[Any], Any] | None:
    """Return what is done to single PIL images; None where nothing is.

    Raises:
        UserError: timm has no such policy.
    """
    steps: list[Any] = []
    if data.crop_scale < 1:
        from timm.data.transforms import RandomResizedCropAndInterpolation

        steps.append(
            RandomResizedCropAndInterpolation(
                preprocessing.size,
                scale=(data.crop_scale, 1.0),
                interpolation=preprocessing.interpolation,
            )
        )
    if data.auto_augment:
        steps.append(_policy(data.auto_augment, preprocessing))
    if not steps:
        return None
    from torchvision.transforms import Compose

    return Compose(steps)


def _policy(name: str, preprocessing: Preprocessing) -> Any:
    from timm.data import create_transform

    try:  # its second part; the first crops and flips, the third normalises
        _, policy, _ = create_transform(
            preprocessing.size,
            is_training=True,
            auto_augment=name,
            color_jitter=None,  # type: ignore[arg-type]  # none, by its documentation
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            separate=True,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"data.auto_augment: {name!r} is no policy of timm ({error}); write one such as "
            "rand-m9-mstd0.5, augmix-m3-w3 or original"
        ) from None
    return policy
