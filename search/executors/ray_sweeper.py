"""Removes what a local Ray leaves behind: processes that outlive it, and its session's folder.

A program of its own, which a search starts beside Ray: whoever is killed cannot tidy up. It waits
until the standard input ends, which happens when the search has shut Ray down, or is dead. On it
come folders to remove. The processes are known by a mark in their environment; they are found in
``/proc``, so that under other systems than Linux only the folders are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "EVOLUTE_RAY_SESSION"  # in the environment of all processes of a session
PATIENCE_S = 3.0  # for those that end by themselves once Ray is gone


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search
    mark = f"{MARK}={sys.argv[1]}".encode()
    folders = [Path(line.strip()) for line in sys.stdin]  # to its end
    deadline = time.monotonic() + PATIENCE_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        latest = folder.parent / "session_latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def _marked(mark: bytes) -> list[int]:
    """Return other processes that have a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [process for process in found if process not in (os.getpid(), os.getppid())]


if __name__ == "__main__":
    main()
