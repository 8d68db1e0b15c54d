"""What a sampler is told when a search begins: one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.goal import Goal

if TYPE_CHECKING:
    from search_space import Architecture, ChoiceSpace

Features = Callable[["Architecture"], Sequence[float]]
Known = Mapping[str, Callable[["Architecture"], float]]


@dataclass(frozen=True)
class Problem:
    """A space, what is wanted of it, and what is known before anything is evaluated.

    Attributes:
        trials: The budget of the search.
        seed: Of the sampler.
        known: Metrics that are exact functions of the architecture, by name. Samplers may call
            them thousands of times a proposal, with architectures in canonical form.
        features: Numbers of an architecture on which objectives are likely to depend, see
            `Surrogate`.
    """

    space: ChoiceSpace
    goal: Goal
    trials: int
    seed: int = 0
    known: Known = field(default_factory=dict)
    features: Features | None = None
