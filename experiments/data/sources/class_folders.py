"""A folder or a tar with one folder of images per class."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.schema import Data
from experiments.data.decoding import decode_image
from experiments.data.listing import Listing, Members, list_folder, list_tar
from experiments.data.registry import Files, Images, Source, register_source

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
    from timm.utils.misc import natural_key

    in_tar = not path.is_dir()
    try:
        listing = (list_tar if in_tar else list_folder)(path)
        if not listing.names:
            raise ValueError(_left_out(listing) or "there is no image file in it")
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(
            f"{path}: no images found ({error}); expected one folder of images per class"
        ) from None
    classes = listing.classes
    class_names = sorted(set(classes), key=natural_key)
    label_of = {name: label for label, name in enumerate(class_names)}
    if empty := sorted(listing.folders - set(class_names)):
        raise UserError(f"{path / empty[0]}: the class folder holds no images")
    stored = _tar_content(path, listing) if in_tar else _folder_content(path, listing)

    def where(index: int) -> str:
        return f"{path}{':' if in_tar else '/'}{listing.names[index]}"

    def content(index: int, count: int) -> bytes:
        try:
            return stored(index, count)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise UserError(f"{where(index)}: the file can't be read ({error})") from None

    def read(index: int) -> Any:
        file = io.BytesIO(content(index, -1))
        try:
            return decode_image(file, mode)
        except ValueError as error:
            raise UserError(f"{where(index)}: the image can't be read ({error})") from None

    left_out = _left_out(listing)
    return Images(
        str(path),
        np.array([label_of[name] for name in classes], dtype=np.int64),
        class_names,
        read,
        files=Files(listing.names, listing.sizes, content),
        notes=(f"{path}: {left_out}",) if left_out else (),
    )


def _folder_content(path: Path, listing: Listing) -> Callable[[int, int], bytes]:
    names = listing.names

    def content(index: int, count: int) -> bytes:
        with open(path / names[index], "rb") as file:
            return file.read(count)

    return content


def _tar_content(path: Path, listing: Listing) -> Callable[[int, int], bytes]:
    members, sizes, offsets = Members(path), listing.sizes, listing.offsets

    def content(index: int, count: int) -> bytes:
        size = int(sizes[index])
        return members.read(int(offsets[index]), size if count < 0 else min(count, size))

    return content


def _left_out(listing: Listing) -> str:
    """Return what was skipped, for people; nothing where nothing was."""
    if not listing.skipped:
        return ""
    kinds = sorted(listing.skipped.items())
    return "skipped " + ", ".join(f"{count} {kind}" for kind, count in kinds)
