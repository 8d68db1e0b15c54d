"""What a search changes in the process that calls it, and undoes in the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# whose loggers are set, by themselves when imported or by us
LIBRARIES = ("ray", "optuna", "sqlalchemy")


@contextlib.contextmanager
def process_unchanged() -> Iterator[None]:
    """Restore environment variables, log levels and signal handlers as the block ends."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels, environment = [logger.level for logger in loggers], os.environ.copy()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        if _may_handle_signals():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGINT and SIGTERM; outside of the main thread nothing changes."""
    if not _may_handle_signals():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError in the block once so many seconds are over; see `run_here`."""
    if seconds is None or not hasattr(signal, "setitimer") or not _may_handle_signals():
        yield
        return

    def over(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:g} s, the limit of timeout_s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _may_handle_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
