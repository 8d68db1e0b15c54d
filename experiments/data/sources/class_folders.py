"""A folder or a tar with one folder of images per class."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.schema import Data
from experiments.data.registry import Images, Source, register_source

TEST_NAMES = ("test", "val", "validation")


@register_source("images")
def class_folders(data: Data, mode: str) -> Source:
    """Open class folders below ``data.root``, or below its ``train`` and ``test`` (or ``val``).

    Raises:
        UserError: A folder or a tar is missing, empty or unreadable; the message names it.
    """
    root = Path(data.root)
    if not root.exists():
        raise UserError(f"data.root: {data.root!r} does not exist")
    train = _part(root, "train")
    if train is None:
        return Source(_open(root, mode))
    test = next((part for name in TEST_NAMES if (part := _part(root, name))), None)
    return Source(_open(train, mode), None if test is None else lambda: _open(test, mode))


def _part(root: Path, name: str) -> Path | None:
    return next((p for p in (root / name, root / f"{name}.tar") if p.exists()), None)


def _open(path: Path, mode: str) -> Images:
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

    def read(index: int) -> Any:
        from PIL import Image

        try:
            with reader[index][0] as file:
                return Image.open(file).convert(mode)
        except (OSError, SyntaxError, ValueError, tarfile.TarError) as error:
            name = reader.filename(index, absolute=path.is_dir())
            where = name if path.is_dir() else f"{path}:{name}"
            raise UserError(f"{where}: the image can't be read ({error})") from None

    return Images(str(path), labels, names, read)
