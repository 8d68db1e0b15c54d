"""Images that are too many to keep in memory: timm's loader and transforms, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config
from experiments.data.preprocessing import Preprocessing
from experiments.data.registry import Images


class DiskImages(torch.utils.data.Dataset):
    """Some images in a given order; timm's loader sets the transform.

    Augmentation draws from generators seeded by (seed, epoch, index), so that an image is
    augmented alike whichever process decodes it and wherever a resumed run starts.
    """

    def __init__(self, images: Images, indices: Sequence[int], seed: tuple[int, ...] = ()) -> None:
        self.images, self.indices, self.seed = images, indices, seed
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        from supernet import seed_everything

        index = int(self.indices[position])
        if self.seed:
            number = np.random.SeedSequence((*self.seed, index)).generate_state(1)[0]
            seed_everything(int(number), 0)
        return self.transform(self.images.read(index)), int(self.images.labels[index])


def _loader(
    dataset: DiskImages, preprocessing: Preprocessing, config: Config, device: Any, batch: int,
    augmentation: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    from timm.data import create_loader, create_transform

    shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
    loader = create_loader(
        dataset,  # type: ignore[arg-type]  # any data set with a `transform` will do
        shape,
        batch,
        mean=preprocessing.mean,
        std=preprocessing.std,
        num_workers=config.data.loading_workers,
        use_prefetcher=False,
        device=torch.device(device),
        pin_memory=torch.device(device).type == "cuda",
        persistent_workers=False,
    )
    if augmentation is not None:  # is_training=False above keeps our order; the transform trains
        loader.dataset.transform = create_transform(
            shape, is_training=True, mean=preprocessing.mean, std=preprocessing.std, **augmentation
        )
    return loader


def _moved(batches: Any, device: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        yield images, labels.to(device, non_blocking=True)


class EvaluationLoader:
    """The same batches at every iteration; `full` drops an incomplete last one of several."""

    def __init__(
        self, images: Images, indices: Sequence[int], preprocessing: Preprocessing,
        config: Config, device: Any, full: bool,
    ) -> None:  # fmt: skip
        batch = config.evaluate.batch_size
        if full and len(indices) > batch:
            indices = indices[: len(indices) // batch * batch]
        dataset = DiskImages(images, indices)
        self.loader = _loader(dataset, preprocessing, config, device, batch)
        self.device = device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return _moved(self.loader, self.device)


@dataclass(frozen=True)
class TrainingLoader:
    """Shuffled, augmented batches; an incomplete last one is dropped."""

    images: Images
    indices: np.ndarray
    preprocessing: Preprocessing
    config: Config
    device: Any
    batch_size: int
    seed: int
    rank: int
    world_size: int

    @property
    def steps_per_epoch(self) -> int:
        return len(self.indices) // (self.batch_size * self.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        seed = self.seed
        order = np.random.default_rng((seed, 2, epoch)).permutation(self.indices)
        used = order[: self.steps_per_epoch * self.world_size * self.batch_size]
        mine = used.reshape(self.steps_per_epoch, self.world_size, self.batch_size)
        chosen = mine[start:, self.rank].ravel()
        data = self.config.data
        augmentation = {
            "hflip": 0.5 if data.flip else 0.0,
            "auto_augment": data.auto_augment or None,
            "color_jitter": None,
        }
        dataset = DiskImages(self.images, chosen.tolist(), (seed, 3, epoch))
        loader = _loader(
            dataset, self.preprocessing, self.config, self.device, self.batch_size, augmentation
        )
        return _moved(loader, self.device)
