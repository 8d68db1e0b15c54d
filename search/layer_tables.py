"""Metrics that are exact sums over the layers, as tables: one count per layer and candidate."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.errors import UserError

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

Measure = Callable[["Architecture"], Mapping[str, float]]


@dataclass(frozen=True)
class LayerTable:
    """A metric of any architecture, without counting it again.

    Attributes:
        base: The value of the architecture of first candidates.
        added: For each layer, what each candidate adds to it in place of the first.
    """

    base: float
    added: tuple[Mapping[str, float], ...]

    def __call__(self, architecture: Architecture) -> float:
        return self.base + sum(table[name] for table, name in zip(self.added, architecture))

    @property
    def smallest(self) -> Architecture:
        """The architecture with the smallest value."""
        return tuple(min(table, key=table.__getitem__) for table in self.added)

    @property
    def largest(self) -> Architecture:
        """The architecture with the largest value."""
        return tuple(max(table, key=table.__getitem__) for table in self.added)


def layer_tables(space: ChoiceSpace, measure: Measure) -> dict[str, LayerTable]:
    """Return the tables of the metrics that `measure` gives, which must be sums over the layers.

    A layer adds the same whatever the others are, so one architecture is measured for each of its
    candidates, the other layers held fixed.

    Raises:
        UserError: The smallest or the largest architecture is not what the sum says.
    """
    first = tuple(layer.candidates[0] for layer in space.layers)

    @functools.cache
    def values(architecture: Architecture) -> Mapping[str, float]:
        return measure(architecture)

    def value(name: str, architecture: Architecture) -> float:
        return float(values(space.canonical(architecture))[name])

    def added(name: str, index: int) -> dict[str, float]:
        return {
            candidate: value(name, (*first[:index], candidate, *first[index + 1 :]))
            - value(name, first)
            for candidate in space.layers[index].candidates
        }

    tables = {
        name: LayerTable(
            value(name, first), tuple(added(name, index) for index in range(len(space.layers)))
        )
        for name in values(space.canonical(first))
    }
    for name, table in tables.items():
        for end in (table.smallest, table.largest):
            if not math.isclose(table(end), value(name, end), rel_tol=1e-9):
                raise UserError(
                    f"metric {name!r}: it is registered as additive, but of {'/'.join(end)} it is "
                    f"{value(name, end):.12g}, and the sum over the layers {table(end):.12g}"
                )
    return tables
