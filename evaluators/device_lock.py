"""Who may use a device right now: many processes that compute, or one that measures.

A readers/writer lock for the processes of one user on one host: `shared_device` for anything that
is not timed, `exclusive_device` for a stopwatch.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

from configs.errors import TooNoisy
from configs.holders import lock_holders

try:
    import fcntl
except ImportError:  # Windows: no lock; measure on an idle machine there
    fcntl = None  # type: ignore[assignment]

NOTICE_S = 30.0  # after which someone who waits says so
LIMIT_S = 900.0  # after which it gives up: nobody holds a device for as long as that
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.0005, 0.02  # between two tries

logger = logging.getLogger("evolute.device")


@contextlib.contextmanager
def exclusive_device(device: str | torch.device) -> Iterator[None]:
    """Hold the device alone while timing: waits until every other holder on this host is done.

    May be nested in itself.

    Raises:
        TooNoisy: Another process holds it for a quarter of an hour.
        RuntimeError: Inside ``shared_device`` of the same thread: it would wait for itself.
    """
    with _hold(torch.device(device), exclusive=True):
        yield


@contextlib.contextmanager
def shared_device(device: str | torch.device) -> Iterator[None]:
    """Hold the device together with others while computing anything that is not timed.

    Raises:
        TooNoisy: Another process holds it alone for a quarter of an hour.
    """
    device = torch.device(device)
    with _hold(device, exclusive=False):
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was launched in the block ends in it


def host_folder() -> Path:
    """Return where the processes of this user on this host meet."""
    folder = Path(tempfile.gettempdir()) / f"evolute-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


# Which locks this thread holds, and whether exclusively. flock knows open files, not threads:
# without this a nested call would block on its own lock.
_held = threading.local()


@contextlib.contextmanager
def _hold(device: torch.device, exclusive: bool) -> Iterator[None]:
    name = _lock_name(device)
    held: dict[tuple[int, str], bool] = _held.__dict__.setdefault("modes", {})
    key = os.getpid(), name  # a forked child inherits the record, not the right
    if key in held:
        if exclusive and not held[key]:
            raise RuntimeError(
                f"exclusive_device({str(device)!r}) inside shared_device({str(device)!r}): "
                "leave the shared block first, the two would wait for each other"
            )
        yield
        return
    with _file_lock(name, exclusive):
        held[key] = exclusive
        try:
            yield
        finally:
            del held[key]


@contextlib.contextmanager
def _file_lock(name: str, exclusive: bool) -> Iterator[None]:
    """A readers-writer lock from two flocks; the kernel drops both when the process dies.

    Everyone passes the turnstile before entering the room. A waiting writer is in it, so no new
    reader can enter and the writer's turn comes as soon as the present readers have left.
    """
    if fcntl is None:
        yield
        return
    folder = host_folder()
    with open(folder / f"{name}.turnstile", "a") as turnstile, open(folder / name, "a") as room:
        _lock(turnstile, fcntl.LOCK_EX, name)
        try:
            _lock(room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, name)
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Not left to close(): a child forked meanwhile holds a copy of the open file.
            fcntl.flock(room, fcntl.LOCK_UN)


def _lock(file: IO[str], mode: int, name: str) -> None:
    """Wait for a lock, and say so when it takes long.

    It is asked for again and again, because a process that sleeps in flock would neither speak nor
    hear a signal that is only noted.

    Raises:
        TooNoisy: It could not be had within `LIMIT_S`.
    """
    begun, pause, told = time.monotonic(), SHORTEST_PAUSE_S, False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, mode | fcntl.LOCK_NB)
            return
        waited = time.monotonic() - begun
        if waited > LIMIT_S:
            holders = lock_holders(Path(file.name))
            raise TooNoisy(f"the device {name!r} was held by {holders} for {LIMIT_S:.0f} s")
        if waited > NOTICE_S and not told:
            told = True
            logger.warning(
                "Waiting for the device %r, which is held by %s; for %.0f s at most",
                name,
                lock_holders(Path(file.name)),
                LIMIT_S,
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _lock_name(device: torch.device) -> str:
    if device.type == "meta":
        return "cpu"  # which computes the shapes
    if device.type != "cuda":
        return device.type
    # Ray shows every worker its GPU as cuda:0, so the index says nothing across processes.
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
