"""What is said of a search beside its numbers, on its page and in the description of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Account:
    """What is said of a search.

    Attributes:
        verdict: Whether hybrids won, in a sentence; empty where nothing can be compared.
        said: Further sentences on the result.
        directory: The work directory, as commands name it.
        measured_on: The device and the runtime of the latencies.
        curves: The picture of the supernet's training, if there is one.
    """

    verdict: str = ""
    said: tuple[str, ...] = ()
    directory: Path = Path("runs/NAME")
    measured_on: str = ""
    curves: Path | None = None

    @property
    def sentences(self) -> list[str]:
        """Return the verdict, and what else is said."""
        return [*filter(None, [self.verdict]), *self.said]

    def retrain(self, index: int | str) -> str:
        """Return the command that trains a member of the front beside its baselines."""
        return f"evolute retrain --search {self.directory} --pick {index} --seeds 3 --baselines"
