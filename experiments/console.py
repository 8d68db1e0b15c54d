"""What people see while something runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console()


@contextlib.contextmanager
def step_progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show a bar that is moved by calling ``advance(steps_done, note)``.

    Where there is no terminal, lines are printed instead, at most one in five seconds.
    """
    if not console.is_terminal:
        last = time.monotonic()

        def print_line(steps: int, note: str) -> None:
            nonlocal last
            if steps == total or time.monotonic() - last >= 5:
                last = time.monotonic()
                console.print(f"{title}: {steps}/{total} {note}", highlight=False)

        yield print_line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda steps, note: progress.update(task, completed=steps, note=note)


@contextlib.contextmanager
def busy(message: str) -> Iterator[None]:
    """Show a spinner, or a line where there is no terminal."""
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        console.print(message, highlight=False)
        yield
