"""Files that are written whole or not at all, whatever happens to the process or the power."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from configs.disk import disk_error, refused_by_disk
from configs.errors import UserError

_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.partial(-\w+)?")
_ABANDONED_S = 24 * 3600.0  # age at which nobody writes a partial file any more, wherever it was


@contextlib.contextmanager
def replacing(path: Path, mode: int | None = None, size: int = 0) -> Iterator[Path]:
    """Give a path to write to; as the block ends, what was written there takes the place of `path`.

    The file is synced before it is renamed, and its folder after that. An exception in the block
    leaves the old file as it was. Missing folders are made.

    Args:
        mode: Who may read and write the file, such as 0o600; default: as the system has it.
        size: Bytes that are needed, as far as they are known.

    Raises:
        UserError: The disk is full, or may not be written.
    """
    writer = f"{_this_machine()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{writer}.partial")
    try:
        _make_folder(path.parent)
        if mode is not None:  # before there is anything to read in it
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, mode))
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except UserError:
        raise
    except Exception as error:
        cause = error if isinstance(error, OSError) else refused_by_disk(partial)
        if cause is None or (refusal := disk_error(cause, path, size)) is None:
            raise
        raise refusal from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes, mode: int | None = None) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part of it.

    Args:
        mode: As for `replacing`.
    """
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, mode, len(content)) as partial:
        partial.write_bytes(content)


def remove_abandoned(directory: Path) -> list[Path]:
    """Remove the partial files below a directory that killed processes left; return them.

    Those of a process of this machine that is alive stay, and those of other machines for a day.
    """
    found = []
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # finished in this moment
                if (match := _PARTIAL.fullmatch(name)) and _is_abandoned(file, match):
                    file.unlink()
                    found.append(file)
    return found


def _is_abandoned(file: Path, match: re.Match[str]) -> bool:
    if time.time() - file.stat().st_mtime > _ABANDONED_S:
        return True
    return match[1] == _this_machine() and not _is_alive(int(match[2]))


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _this_machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of them on the disk before something is put in it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        _sync(each.parent)


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk; Windows opens no folders, and needs it for none."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
