"""What people see while something runs."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Printer(Console):
    """A console that prints on its copies too."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Console] = []

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        for copy in self.copies:
            copy.print(*objects, **options)


console = Printer()


@contextlib.contextmanager
def copied() -> Iterator[io.StringIO]:
    """Give what is printed in the block, as plain text wide enough for a table."""
    text = io.StringIO()
    copy = Console(file=text, width=max(console.width, 120), force_terminal=False)
    console.copies.append(copy)
    try:
        yield text
    finally:
        console.copies.remove(copy)


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


def as_duration(seconds: float) -> str:
    """Write a time for people: `40 s`, `12 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
