"""Decoded images of the network's size, from memory where they are kept there, or from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from experiments.data.preprocessing import fit
from experiments.data.processes import loading_context
from experiments.data.registry import Images
from supernet import seed_everything


class Pixels(torch.utils.data.Dataset):
    """``pixels[indices]`` is uint8 (B, C, size, size).

    Memory holds what a file would be decoded to, so that keeping images saves time and changes
    nothing else.

    Args:
        workers: Processes that decode images.
    """

    def __init__(self, images: Images, size: int, workers: int) -> None:
        self.images, self.size, self.workers = images, size, workers
        self.kept: Tensor | None = None
        self.rows = np.full(len(images.labels), -1)  # of `kept`; -1 where an image is not

    def keep(self, indices: np.ndarray, device: torch.device | str) -> None:
        """Decode images once and keep them on a device."""
        first = self.decode(int(indices[0]))
        kept = torch.empty((len(indices), *first.shape), dtype=torch.uint8)
        for row, index in enumerate(indices):
            kept[row] = self.decode(int(index))
        self.kept, self.workers = kept.to(device), 0
        self.rows[indices] = np.arange(len(indices))

    def decode(self, index: int) -> Tensor:
        """Return one image from its file."""
        return as_pixels(fit(self.images.read(index), self.size))

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        rows = self.rows[indices]
        if self.kept is not None and rows.min() >= 0:
            return self.kept[torch.from_numpy(rows)]
        return torch.stack([self.decode(int(index)) for index in indices])


class AugmentedPixels(torch.utils.data.Dataset):
    """Pixels that a transform of PIL images changes, at random.

    Random numbers are seeded by (seed, index), so that an image is augmented alike wherever it is
    kept, whichever process does it, and wherever a resumed run starts.

    Args:
        whole: Whether the transform wants the image of the file, before it is resized and cropped.
        seed: The training's and the epoch's.
    """

    def __init__(
        self,
        pixels: Pixels,
        transform: Callable[[Any], Any],
        whole: bool,
        seed: tuple[int, ...],
        workers: int,
    ) -> None:
        self.pixels, self.transform, self.whole = pixels, transform, whole
        self.seed, self.workers = seed, workers

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        return torch.stack([self._augmented(int(index)) for index in indices])

    def _augmented(self, index: int) -> Tensor:
        image = self.pixels.images.read(index) if self.whole else self._fitted(index)
        seed_everything(*self.seed, index)
        try:
            return as_pixels(self.transform(image))
        except ValueError as error:  # such as timm's `v0`, which leaves an image no bits
            raise UserError(f"data.auto_augment: the policy fails on an image ({error})") from None

    def _fitted(self, index: int) -> Any:
        from torchvision.transforms.functional import to_pil_image

        return to_pil_image(self.pixels[np.array([index])][0])


def as_pixels(image: Any) -> Tensor:
    """Return a grey or RGB PIL image as uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def stream(
    source: Pixels | AugmentedPixels, batches: Sequence[np.ndarray], device: torch.device | str
) -> Iterator[Tensor]:
    """Yield the pixels of batches of indices, on a device.

    Raises:
        UserError: An image can't be read, or a policy fails on one.
    """
    loader = torch.utils.data.DataLoader(
        source,
        batch_size=None,  # the batches are cut already
        sampler=batches,
        num_workers=source.workers,
        multiprocessing_context=loading_context() if source.workers else None,
        pin_memory=source.workers > 0 and torch.device(device).type == "cuda",
        generator=torch.Generator(),  # the global one is the training's
    )
    try:
        for pixels in loader:
            yield pixels.to(device, non_blocking=True)
    except UserError as error:  # from another process: its traceback is in the message
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
