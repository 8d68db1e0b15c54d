"""Architectures as numbers: one column per layer and candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace


@dataclass(frozen=True)
class Columns:
    """What the one-hot columns of a space mean.

    Attributes:
        codes: For each layer, its candidates' numbers.
        of: The column of each level, layer and number, shape (levels, layers, numbers). Level 0
            are the candidates; then follow their operators and their widths, where several
            candidates share one and not all do.
        layer: Of each column.
        level: Of each column.
    """

    codes: tuple[dict[str, int], ...]
    of: np.ndarray
    layer: np.ndarray
    level: np.ndarray

    @property
    def layers(self) -> int:
        return self.of.shape[1]

    @property
    def levels(self) -> int:
        return self.of.shape[0]


def columns_of(space: ChoiceSpace) -> Columns:
    """Number the columns of a space."""
    names = sorted({name for layer in space.layers for name in layer.candidates})
    levels: list[dict[str, str | float]] = [{name: name for name in names}]
    for of_candidate in (space.operator_of, space.width_of):
        shared: dict[str, str | float] = {name: of_candidate(name) for name in names}
        if 1 < len(set(shared.values())) < len(names):
            levels.append(shared)
    most = max(len(layer.candidates) for layer in space.layers)
    of = np.zeros((len(levels), len(space.layers), most), dtype=int)
    layer_of: list[int] = []
    level_of: list[int] = []
    for level, groups in enumerate(levels):
        for index, layer in enumerate(space.layers):
            present = list(dict.fromkeys(groups[name] for name in layer.candidates))
            first = len(layer_of)
            for number, name in enumerate(layer.candidates):
                of[level, index, number] = first + present.index(groups[name])
            layer_of += [index] * len(present)
            level_of += [level] * len(present)
    codes = tuple({name: i for i, name in enumerate(layer.candidates)} for layer in space.layers)
    return Columns(codes, of, np.array(layer_of), np.array(level_of))


def one_hot(columns: Columns, architectures: Sequence[Architecture]) -> np.ndarray:
    """Return the one-hot choices of architectures, shape (architectures, columns)."""
    numbers = np.array(
        [[codes[name] for codes, name in zip(columns.codes, a)] for a in architectures]
    )
    choices = np.zeros((len(architectures), len(columns.layer)))
    rows, layers = np.arange(len(architectures))[:, None], np.arange(columns.layers)
    for of in columns.of:
        choices[rows, of[layers, numbers]] = 1.0
    return choices


def counts_of(space: ChoiceSpace, columns: Columns) -> np.ndarray:
    """Return what turns one-hot choices into how often each name occurs, shape (columns, names)."""
    names = sorted({name for layer in space.layers for name in layer.candidates})
    counted = np.zeros((len(columns.layer), len(names)))
    for index, codes in enumerate(columns.codes):
        for name, number in codes.items():
            counted[columns.of[0, index, number], names.index(name)] = 1.0
    return counted
