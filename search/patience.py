"""Waiting for an SQLite file that another process has locked, such as one that is being copied."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from configs.errors import UserError
from configs.holders import lock_holders

TRY_S = 2  # how long SQLite itself waits, in which nothing else happens: Ctrl-C waits as long
NOTICE_S = 30.0  # after which the wait is told
LIMIT_S = 120.0  # after which it ends

Result = TypeVar("Result")
logger = logging.getLogger("evolute.study")


def patiently(file: Path | None, action: Callable[[], Result]) -> Result:
    """Return what an action on an SQLite file returns, tried again while the file is locked.

    Args:
        file: None of another database, which has its own ways.

    Raises:
        UserError: It is locked for `LIMIT_S`; the message says by whom, where that is known.
    """
    begun, told = time.monotonic(), False
    while True:
        try:
            return action()
        except Exception as error:
            if file is None or not _is_locked(error):
                raise
        waited = time.monotonic() - begun
        if waited > LIMIT_S:
            raise UserError(
                f"{file} was locked by {lock_holders(file)} for {LIMIT_S:.0f} s. What is finished "
                "is in it; stop the other one, and the same command goes on"
            )
        if waited > NOTICE_S and not told:
            told = True
            logger.warning(
                "Waiting for %s, which is locked by %s; for %.0f s at most",
                file,
                lock_holders(file),
                LIMIT_S,
            )


def _is_locked(error: BaseException | None) -> bool:
    """Return whether SQLite's answer, somewhere below Optuna's and SQLAlchemy's, is that."""
    while error is not None:
        if "database is locked" in str(error):
            return True
        error = error.__cause__
    return False
