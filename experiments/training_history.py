"""What each epoch of a training came to: a file, and its curve."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically
from configs.kept import read_or_none
from experiments.console import console


class TrainingHistory:
    """One entry an epoch, in a JSON file that a resumed training continues."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries = read_or_none(file, _entries, "the curve begins here") or []

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What was written down, by epoch."""
        return list(self._entries)

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write down an epoch, counted from 1; it replaces itself and what followed it."""
        earlier = [entry for entry in self._entries if entry["epoch"] < epoch]
        self._entries = [*earlier, {"epoch": epoch, **values}]
        write_atomically(self.file, json.dumps(self._entries))

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return self._entries[-1]["epoch"] if self._entries else 0

    @property
    def seconds(self) -> float | None:
        """How long all epochs took; None where it was not written down."""
        whole = [entry["epoch"] for entry in self._entries] == [*range(1, len(self._entries) + 1)]
        if not self._entries or not whole or any("seconds" not in e for e in self._entries):
            return None
        return sum(entry["seconds"] for entry in self._entries)

    def plot(self) -> Path:
        """Draw ``curves.png`` beside the file, without times, and return its path."""
        from experiments.reporting.plots import plot_curves

        drawn = [{k: v for k, v in entry.items() if k != "seconds"} for entry in self._entries]
        return plot_curves(drawn, self.file.with_name("curves.png"))

    @contextlib.contextmanager
    def shown_when_stopped(self) -> Iterator[None]:
        """Draw the curves so far, and say where, if the training in the block is asked to stop."""
        try:
            yield
        except KeyboardInterrupt:
            if self._entries:
                said = f"Curves so far: {self.plot()}"
                console.print(said, soft_wrap=True, highlight=False, markup=False)
            raise


def _entries(values: Any) -> list[dict[str, Any]]:
    for entry in values:
        int(entry["epoch"])
    return list(values)
