"""Which image files there are below a folder or in a tar, each once, and what was left out."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError

SUFFIXES = (  # in lower case
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """Image files in class folders, in natural order (2 before 10).

    Attributes:
        names: Below the root, with ``/``; a file's class is the folder it is in.
        sizes: In bytes, int64, shape (N,).
        offsets: Where a tar's members begin, int64, shape (N,); zeros for a folder.
        folders: The names of the folders right below the root.
        skipped: Files that are no images, or not to be read, counted by suffix or reason.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    offsets: np.ndarray
    folders: frozenset[str]
    skipped: Mapping[str, int]

    @property
    def classes(self) -> list[str]:
        """Return the class of every file."""
        return [name.split("/")[-2] for name in self.names]


def list_folder(root: Path) -> Listing:
    """List the images below a folder. Links are followed, but every folder and file is read once.

    The file itself comes before a link to it. A link to a folder above the root leads nowhere.

    Raises:
        OSError: A folder can't be read.
    """
    skipped: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    folders = set()
    linked = []
    for name, entry_is_link, folder in _walk(root, skipped):
        if folder:
            if "/" not in name:
                folders.add(name)
        elif entry_is_link:
            linked.append(name)
        elif (size := _new_size(root / name, seen, skipped)) is not None:
            sizes[name] = size
    for name in linked:
        if (size := _new_size(root / name, seen, skipped)) is not None:
            sizes[name] = size
    return _listing({name: (size, 0) for name, size in sizes.items()}, folders, skipped)


def list_tar(path: Path) -> Listing:
    """List the images of a tar; of members with one name, the last counts.

    Raises:
        UserError: A member's name is absolute or has ``..`` in it.
        OSError, tarfile.TarError: The tar can't be read.
    """
    skipped: Counter[str] = Counter()
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            parts = re.split(r"[/\\]", member.name)
            if not parts[0] or ".." in parts or re.fullmatch("[A-Za-z]:", parts[0]):
                raise UserError(
                    f"{path}: the member {member.name!r} is refused; the names in a tar are "
                    "relative, without `..`"
                )
            name = posixpath.normpath(member.name)
            if member.isdir() or not _is_image(name, skipped):
                continue
            if not member.isreg():
                skipped["link" if member.islnk() or member.issym() else "special file"] += 1
            else:
                found[name] = (member.size, member.offset_data)
    return _listing(found, set(), skipped)


class Members:
    """Reads the members of a tar; each process opens it for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar: tarfile.TarFile | None = None

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from an offset of the tar, as it is unpacked."""
        if self._tar is None:
            self._tar = tarfile.open(self.path)  # noqa: SIM115 - for as long as images are read
        file: Any = self._tar.fileobj
        file.seek(offset)
        return file.read(count)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_tar": None}


def _walk(root: Path, skipped: Counter[str]) -> Iterator[tuple[str, bool, bool]]:
    """Yield (name, whether links lead there, whether it is a folder) of what may be of use.

    Folders are read before links to folders, from the root downwards.
    """
    above = root.resolve()
    seen = {_identity(os.stat(folder)) for folder in above.parents}
    folders = [("", False)]
    links: list[tuple[str, bool]] = []
    while folders or links:
        name, linked = folders.pop(0) if folders else links.pop(0)
        identity = _identity(os.stat(root / name))
        if identity in seen:
            skipped["link to a folder"] += 1
            continue
        seen.add(identity)
        if name:
            yield name, linked, True
        with os.scandir(root / name) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{name}/{entry.name}" if name else entry.name
                if entry.is_dir():
                    if entry.name.startswith("."):
                        skipped["hidden"] += 1
                    elif entry.is_symlink():
                        links.append((path, True))
                    else:
                        folders.append((path, linked))
                elif _is_image(path, skipped):
                    yield path, linked or entry.is_symlink(), False


def _is_image(name: str, skipped: Counter[str]) -> bool:
    """Return whether a file is an image by its name and in a class folder; count it if not."""
    suffix = posixpath.splitext(name)[1].lower()
    if any(part.startswith(".") for part in name.split("/")):
        skipped["hidden"] += 1
    elif suffix not in SUFFIXES:
        skipped[suffix or "without suffix"] += 1
    elif "/" not in name:
        skipped["outside class folders"] += 1
    else:
        return True
    return False


def _new_size(path: Path, seen: set[tuple[int, int]], skipped: Counter[str]) -> int | None:
    """Return the size of a file that was not seen before; count it if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        skipped["broken link"] += 1
        return None
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        skipped["special file"] += 1
    elif _identity(status) in seen:
        skipped["link to an image"] += 1
    else:
        seen.add(_identity(status))
        return status.st_size
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _listing(
    found: Mapping[str, tuple[int, int]], folders: set[str], skipped: Counter[str]
) -> Listing:
    from timm.utils.misc import natural_key

    names = sorted(found, key=natural_key)
    numbers = np.array([found[name] for name in names], dtype=np.int64).reshape(-1, 2)
    return Listing(tuple(names), numbers[:, 0], numbers[:, 1], frozenset(folders), dict(skipped))
