"""One owner of a work directory: whoever writes there, keeps everyone else from it meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from configs import UserError
from configs.disk import disk_error
from configs.holders import lock_holders
from experiments.log_file import logged
from experiments.workspace import Workspace

LOCK = ".owner.lock"


@contextlib.contextmanager
def owned(workspace: Workspace) -> Iterator[None]:
    """Own a work directory, with all studies of its supernet, for the time of the block.

    What is printed meanwhile is for the log, see `experiments.log_file`.

    The right goes with the process, however it ends. The same process may ask for it again. A
    directory that was made for the lock, and in which nothing was written, is gone in the end.

    Raises:
        UserError: Another process owns it, or nothing can be written there. Nothing was changed.
    """
    directory = workspace.root.absolute()
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    lock = filelock.FileLock(directory / LOCK, is_singleton=True)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(
            f"{workspace.root} is in use by {lock_holders(directory / LOCK)}; wait for it, stop "
            "it, or choose another directory with --out"
        ) from None
    except OSError as error:
        raise disk_error(error, directory / LOCK) or error from None
    try:
        with logged():
            yield
    finally:
        lock.release()
        if not lock.is_locked:
            _remove_if_unused(directory, made)


def _remove_if_unused(directory: Path, made: list[Path]) -> None:
    if made and {file.name for file in directory.iterdir()} <= {LOCK}:
        (directory / LOCK).unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
