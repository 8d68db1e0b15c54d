"""Disks that are full or may not be written: said in one line, with the path and what is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from configs.errors import UserError

REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
)  # fmt: skip
PROBE = b"\0" * 2**20


def disk_error(error: BaseException, path: Path, needed: int = 0) -> UserError | None:
    """Return what to tell a person where an error is one of the disk; else None.

    Args:
        path: What was to be written.
        needed: Bytes of it, as far as they are known.
    """
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    return cannot_write(path, os.strerror(error.errno), needed)


def cannot_write(path: Path, reason: str, needed: int = 0) -> UserError:
    """Return the error that a file cannot be written; see `disk_error`."""
    room = f"; {_size(needed)} are needed there" if needed else ""
    folder = path.absolute().parent
    with contextlib.suppress(OSError):
        while not folder.exists():
            folder = folder.parent
        room += f"{',' if room else ';'} {_size(shutil.disk_usage(folder).free)} are free"
    return UserError(
        f"{path} cannot be written: {reason}{room}. What was there before is as it was: make room, "
        "or another directory writable, and give the same command again"
    )


def refused_by_disk(partial: Path) -> OSError | None:
    """Return why nothing more can be written to a file, if so.

    Libraries that write a file say that they failed, and not why.
    """
    try:
        with partial.open("ab") as file:
            file.write(PROBE)
    except OSError as error:
        return error
    return None


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB"
