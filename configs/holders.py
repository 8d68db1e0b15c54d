"""Which processes hold a lock on a file, in words for people who wait for it."""

from __future__ import annotations

import os
from pathlib import Path

LOCKS = Path("/proc/locks")  # Linux
LENGTH = 80  # of a command that is shown


def lock_holders(path: Path) -> str:
    """Return who holds a lock on a file: ``process 4711 (evolute search quickstart)``.

    ``another process`` where that can't be known: on other systems than Linux, of a process in
    another container or on another host, or if the lock has just been left.
    """
    try:
        inode = path.stat().st_ino
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return "another process"
    # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:131118 0 EOF; those that wait have `->` as second word
    fields = [line.split() for line in lines]
    numbers = {
        int(words[4])
        for words in fields
        if words[1] != "->" and words[5].rpartition(":")[2] == str(inode)
    }
    known = [_describe(number) for number in sorted(numbers - {0, -1, os.getpid()})]
    return ", ".join(known) or "another process"


def _describe(number: int) -> str:
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        command = ""
    words = command.split()
    if words and Path(words[0]).name.startswith("python"):
        words = words[1:]
    text = " ".join(Path(word).name if word.startswith("/") else word for word in words)
    return f"process {number}" + (f" ({text[:LENGTH]})" if text else "")
