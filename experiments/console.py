"""What people see while something runs."""

from __future__ import annotations

import contextlib
import importlib.util
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
)

PRINTED_S, KEPT_S = 5.0, 30.0  # between two lines of a progress: where there is no bar; in a log


class Printer(Console):
    """A console that prints on its copies too."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Console] = []

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        for copy in self.copies:
            copy.print(*objects, **options)

    def print_alone(self, text: str) -> None:
        """Print a line, and not on the copies."""
        super().print(text, highlight=False)


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


def note(text: str) -> None:
    """Print a line on the copies alone, such as the log: people see it in another form."""
    for copy in console.copies:
        copy.print(text, highlight=False, markup=False, soft_wrap=True)


class TimeLeft:
    """Tells from the steps of this run how long the others take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[float, int] | None = None

    def after(self, steps: int) -> str:
        """Return such as ``12 min left``; empty of the first step: before it much is prepared."""
        now = time.monotonic()
        if self._first is None or steps <= self._first[1]:  # the first, or taken back to before it
            self._first = (now, steps)
            return ""
        began, first = self._first
        seconds = (now - began) / (steps - first) * (self._total - steps)
        return f"{as_duration(seconds)} left"


class Pace:
    """Says when it is time for the next line."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def is_due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


@contextlib.contextmanager
def step_progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show a bar that is moved by calling ``advance(steps_done, note)``.

    Where there is no terminal, lines are printed instead, at most one in five seconds. A log has
    one in thirty.
    """
    left, printed, kept = TimeLeft(total), Pace(PRINTED_S), Pace(KEPT_S)
    with _bar(title, total, done) as move:

        def advance(steps: int, about: str) -> None:
            remaining = left.after(steps)
            if move is not None:
                move(steps, about, remaining)
            said = ", ".join(filter(None, [about, remaining if steps < total else ""]))
            line = f"{title}: {steps}/{total} {said}".rstrip()
            ended = steps == total
            if (printed.is_due() or ended) and move is None:
                console.print_alone(line)
            if kept.is_due() or ended:
                note(line)

        yield advance


@contextlib.contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Callable[[int, str, str], None] | None]:
    """Give what moves a bar; None where there is no terminal or notebook to show it."""
    in_notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    if not console.is_terminal and not in_notebook:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[about]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, left="", about="")
        yield lambda steps, about, left: progress.update(
            task, completed=steps, about=about, left=left
        )


@contextlib.contextmanager
def busy(message: str, printed: bool = True) -> Iterator[None]:
    """Show a spinner, or a line where there is no terminal.

    Args:
        printed: False where what is printed is read by a program.
    """
    if not printed:
        yield
    elif console.is_terminal:
        note(message)
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
