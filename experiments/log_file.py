"""``evolute.log`` of a work directory: what commands printed, warnings, and what ended them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from configs.secrets import redact
from experiments.console import console

NAME = "evolute.log"
WIDTH = 160  # characters of a line that is wrapped, such as a table's


class LogFile(io.StringIO):
    """Appends lines with their time, without secrets. A full disk costs the log and nothing else.

    What comes before `begin` waits in memory: a command that is refused writes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self._mode = 0o666
        self._waiting = ""
        self._lock = threading.Lock()

    def begin(self, path: Path, mode: int | None) -> None:
        """Write to a file from now on; `mode` is as for `configs.atomic.replacing`."""
        with contextlib.suppress(OSError):
            if mode is not None and path.exists():
                path.chmod(mode)
        self._path, self._mode = path, mode or self._mode
        self.write("")

    def write(self, text: str) -> int:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = [line.rstrip() for line in redact(text).splitlines()]
        with self._lock:
            self._waiting += "".join(f"{now}  {line}\n" for line in lines if line)
            if self._path is not None and self._waiting:
                with contextlib.suppress(OSError):
                    self._append(self._path, self._waiting.encode(errors="replace"))
                self._waiting = ""
        return len(text)

    def _append(self, path: Path, lines: bytes) -> None:
        def opener(file: str, flags: int) -> int:
            return os.open(file, flags, self._mode)

        with open(path, "ab", buffering=0, opener=opener) as stream:
            stream.write(lines)


_current: list[LogFile] = []  # at most one


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Keep what is printed and logged in the block, for the file that `begin_log` names."""
    if _current:
        yield
        return
    log, logger = LogFile(), logging.getLogger("evolute")
    handlers: list[logging.Handler] = [logging.StreamHandler(log)]
    handlers[0].setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if logging.lastResort is not None and not logger.hasHandlers():
        handlers.append(logging.lastResort)  # it shows warnings, as long as nothing else does
    for handler in handlers:
        logger.addHandler(handler)
    copy = Console(file=log, width=WIDTH, force_terminal=False)
    console.copies.append(copy)
    _current.append(log)
    try:
        yield
    except BaseException as error:
        log.write(f"{type(error).__name__}: {error}")
        raise
    finally:
        _current.remove(log)
        console.copies.remove(copy)
        for handler in handlers:
            logger.removeHandler(handler)


def begin_log(directory: Path, mode: int | None) -> None:
    """Append what was printed and logged since `logged` to the log of a directory, and what comes.

    Args:
        mode: Who may read the file, as for `configs.atomic.replacing`.
    """
    for log in _current:
        log.begin(directory / NAME, mode)
