"""Live progress of a search: one moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType

PLAIN_INTERVAL_S = 10.0  # between two lines where there is no terminal


@dataclass(frozen=True)
class SearchProgress:
    """Where a search is; given to `on_trial` with every record.

    `best` is the best value of each objective among the front, empty before there is one;
    `hypervolume` is None until enough trials are complete to fix the reference point;
    `seconds_left` is None until two trials of this run have ended: to start workers is no trial.
    """

    done: int
    total: int
    counts: dict[str, int]
    front_size: int
    best: dict[str, float]
    hypervolume: float | None
    seconds_left: float | None


class ProgressDisplay:
    """Shows a `SearchProgress` on standard error; a context manager.

    Args:
        show: True or False, or None for "on a terminal only".
    """

    def __init__(self, show: bool | None) -> None:
        terminal = sys.stderr.isatty()
        self._show = terminal if show is None else show
        self._next_line = 0.0
        self._live = None
        if self._show and terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, progress: SearchProgress) -> None:
        if self._live:
            self._live.update(describe(progress, bar=True))
        elif self._show:
            last = progress.done == progress.total
            if last or time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + PLAIN_INTERVAL_S
                print(describe(progress), file=sys.stderr, flush=True)


def describe(progress: SearchProgress, bar: bool = False) -> str:
    """Return a progress in one line, e.g. `trial 12/60  front 4  hypervolume 8.31  left 1:20`."""
    filled = round(20 * progress.done / progress.total)
    parts = ["━" * filled + "╌" * (20 - filled)] if bar else []
    parts += [f"trial {progress.done}/{progress.total}", f"front {progress.front_size}"]
    if progress.hypervolume is not None:
        parts.append(f"hypervolume {progress.hypervolume:.4g}")
    parts += [
        f"{state} {count}"
        for state, count in progress.counts.items()
        if count and state != "complete"
    ]
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(
            f"left {hours}:{minutes:02d}:{seconds:02d}"
            if hours
            else f"left {minutes}:{seconds:02d}"
        )
    return "  ".join(parts)
