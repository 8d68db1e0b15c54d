"""The networks of a space with one candidate throughout: what every front is compared with.

A search tries them among its first, but only so many. Those that it left out are measured here, as
far as that needs no images, and what was measured is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically
from configs.errors import TooNoisy
from configs.kept import numbers, read_or_none
from search.goal import Goal
from search.space_profile import uniform_architectures
from search.trials import TrialRecord
from search_space import Architecture, ChoiceSpace


class PlainNetworks:
    """The plain networks of a space, and what is known of those that no trial is about.

    Their numbers are negative.

    Args:
        file: Where that is kept.
        measure: Gives the metrics that need no images; may raise `TooNoisy`.
    """

    def __init__(
        self,
        space: ChoiceSpace,
        file: Path,
        measure: Callable[[Architecture], Mapping[str, float]],
    ) -> None:
        self.architectures = uniform_architectures(space)
        self._file, self._measure = file, measure

    def untried(self, tried: Collection[Architecture], goal: Goal) -> list[TrialRecord]:
        """Return those that were not tried and keep the bounds, as far as these are known.

        One that the device is too busy to measure is left out.
        """
        records = []
        for index, architecture in enumerate(self.architectures):
            if architecture in tried:
                continue
            with contextlib.suppress(TooNoisy):
                record = self._read(-1 - index, architecture)
                if not goal.exceeded(record.metrics):
                    records.append(record)
        return records

    def keep(self, record: TrialRecord) -> None:
        """Keep what is known of one of them."""
        values = {"metrics": record.metrics, "again": record.again}
        kept = {**self._kept(), "/".join(record.architecture): values}
        write_atomically(self._file, json.dumps(kept, indent=1))

    def _read(self, number: int, architecture: Architecture) -> TrialRecord:
        kept = self._kept().get("/".join(architecture))
        if kept is not None:
            return TrialRecord(
                number, architecture, kept["metrics"], "complete", again=kept["again"]
            )
        record = TrialRecord(number, architecture, dict(self._measure(architecture)), "complete")
        self.keep(record)
        return record

    def _kept(self) -> dict[str, dict[str, dict[str, float]]]:
        return read_or_none(self._file, _networks, "they are measured again") or {}


def _networks(values: Any) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {"metrics": numbers(known["metrics"]), "again": dict(known["again"])}
        for name, known in values.items()
    }
