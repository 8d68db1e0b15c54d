"""Where images come from: the embedded digits, class folders or tars, or a timm data set."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import Data


@dataclass(frozen=True)
class Source:
    """Labelled images that are read one by one.

    `read(index)` gives a PIL image in the right mode; `decode` gives uint8 (N, C, H, W), resized
    and centre-cropped to the space's input size.
    """

    origin: str
    labels: np.ndarray
    class_names: list[str]
    read: Callable[[int], Any]
    size: int

    def decode(self, indices: Iterable[int]) -> Tensor:
        images = [np.asarray(_fit(self.read(int(index)), self.size)) for index in indices]
        stacked = torch.from_numpy(np.stack(images))
        grey = stacked.ndim == 3
        return stacked.unsqueeze(1) if grey else stacked.permute(0, 3, 1, 2).contiguous()


class Sources:
    """The training images, and the test images, opened when first asked for."""

    def __init__(self, train: Source, test: Callable[[], Source]) -> None:
        self.train = train
        self._test = test

    @functools.cached_property
    def test(self) -> Source:
        test = self._test()
        if test.class_names != self.train.class_names:
            different = sorted(set(test.class_names) ^ set(self.train.class_names))
            raise UserError(
                f"{test.origin}: its classes differ from those of {self.train.origin}: "
                f"{', '.join(map(str, different[:5]))}"
            )
        return test


def open_sources(data: Data, size: int, channels: int, seed: int) -> Sources:
    """Opens the data of a configuration without decoding it.

    Raises:
        UserError: A file is missing, empty or unreadable; the message names it.
    """
    if data.name == "digits":
        return _held_out(_digits(size, channels), data, seed)
    if data.name == "images":
        return _folders(data, size, channels, seed)
    return _timm(data, size, channels)


def _digits(size: int, channels: int) -> Source:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    mode = _mode(channels)
    return Source(
        "digits",
        digits.target.astype(np.int64),
        [str(name) for name in digits.target_names],
        lambda index: Image.fromarray(pixels[index]).convert(mode),
        size,
    )


def _folders(data: Data, size: int, channels: int, seed: int) -> Sources:
    root = Path(data.root)
    if not root.exists():
        raise UserError(f"data.root: {data.root!r} does not exist")
    train = _part(root, "train")
    if train is None:
        return _held_out(_class_folders(root, size, channels), data, seed)
    names = ("test", "val", "validation")
    test = next((part for name in names if (part := _part(root, name))), None)
    source = _class_folders(train, size, channels)
    if test is None:
        return _held_out(source, data, seed)
    return Sources(source, lambda: _class_folders(test, size, channels))


def _part(root: Path, name: str) -> Path | None:
    return next((p for p in (root / name, root / f"{name}.tar") if p.exists()), None)


def _class_folders(path: Path, size: int, channels: int) -> Source:
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from timm.data.readers.reader_image_tar import ReaderImageTar

    try:  # not timm's other tar reader: that one reads all of a tar to list it, and keeps a pickle
        reader: Any = (ReaderImageFolder if path.is_dir() else ReaderImageTar)(str(path))
        if not reader.samples:
            raise ValueError("there is no image file in it")
    except (RuntimeError, AssertionError, OSError, ValueError, tarfile.TarError) as error:
        raise UserError(
            f"{path}: no images found ({error}); expected one folder of images per class"
        ) from None
    labels = np.array([label for _, label in reader.samples], dtype=np.int64)
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.get)
    if path.is_dir():
        empty = [d.name for d in path.iterdir() if d.is_dir() and d.name not in reader.class_to_idx]
        if empty:
            raise UserError(f"{path / sorted(empty)[0]}: the class folder holds no images")
    mode = _mode(channels)

    def read(index: int) -> Any:
        from PIL import Image

        try:
            with reader[index][0] as file:
                return Image.open(file).convert(mode)
        except (OSError, SyntaxError, ValueError, tarfile.TarError) as error:
            name = reader.filename(index, absolute=path.is_dir())
            where = name if path.is_dir() else f"{path}:{name}"
            raise UserError(f"{where}: the image can't be read ({error})") from None

    return Source(str(path), labels, names, read, size)


def _timm(data: Data, size: int, channels: int) -> Sources:
    mode = _mode(channels)

    def open_split(split: str) -> Source:
        from timm.data import create_dataset

        try:
            dataset = create_dataset(
                data.name, root=data.root or None, split=split, is_training=False
            )
        except Exception as error:  # timm raises what the library behind the name raises
            raise UserError(f"data.name: {data.name!r} can't be opened ({error})") from None
        targets = getattr(dataset, "targets", None)
        if targets is None:
            targets = [dataset[i][1] for i in range(len(dataset))]
        names = getattr(dataset, "classes", None) or [str(c) for c in sorted(set(targets))]

        def read(index: int) -> Any:
            return dataset[index][0].convert(mode)

        labels = np.array(targets, dtype=np.int64)
        return Source(f"{data.name} ({split})", labels, list(names), read, size)

    return Sources(open_split("train"), lambda: open_split("validation"))


def _held_out(source: Source, data: Data, seed: int) -> Sources:
    """Holds a test split out of a source that has none."""
    from experiments.data.splits import stratified_split

    everything = np.arange(len(source.labels))
    rest, held = stratified_split(
        everything, source.labels, data.test_fraction, seed, "data.test_fraction"
    )
    return Sources(_subset(source, rest), lambda: _subset(source, held))


def _subset(source: Source, indices: np.ndarray) -> Source:
    return Source(
        source.origin,
        source.labels[indices],
        source.class_names,
        lambda index: source.read(int(indices[index])),
        source.size,
    )


def _mode(channels: int) -> str:
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise UserError(f"space.in_channels: {channels} is not possible for images; choose 1 or 3")
    return modes[channels]


def _fit(image: Any, size: int) -> Any:
    """Resizes the shorter side to `size` and cuts out the centre."""
    if image.size == (size, size):
        return image
    from torchvision.transforms.functional import center_crop, resize

    return center_crop(resize(image, size), [size, size])
