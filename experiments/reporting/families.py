"""Where an operator family was chosen, and what it brings and costs in each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from search.layer_sums import LayerSums
from search.trials import TrialRecord
from search_space import Architecture, ChoiceSpace, SearchSpace

LEAST = 10  # trials from which effects are estimated


@dataclass(frozen=True)
class Effect:
    """What the candidates of a family add in a layer over the mean of its candidates.

    Attributes:
        values: By metric: the effect and its standard error, in the metric's unit.
    """

    layer: int
    values: dict[str, tuple[float, float]]


def layers_offering(space: SearchSpace, family: str) -> list[int]:
    """Return the layers in which a family is a choice."""
    return [
        index
        for index, layer in enumerate(space.layers)
        if 0 < len(_members(space, index, family)) < len(layer.candidates)
    ]


def chosen_families(space: SearchSpace, front: Sequence[Architecture]) -> list[Counter[str]]:
    """Return for each layer how often each family is on a front."""
    return [
        Counter(space.operator_of(architecture[index]) for architecture in front)
        for index in range(len(space.layers))
    ]


def family_effects(
    space: SearchSpace, trials: Sequence[TrialRecord], family: str, metrics: Sequence[str]
) -> list[Effect]:
    """Return the effect of a family in each layer that offers it; none of too few trials.

    A metric that is the same in all trials is left out.

    Each metric is modelled as a sum over the layers (`LayerSums`), so what a choice does to the
    others is left out.
    """
    models = layer_models(space, trials, metrics)
    return [
        Effect(
            index,
            {n: model.effect(index, _members(space, index, family)) for n, model in models.items()},
        )
        for index in layers_offering(space, family)
        if models
    ]


def layer_models(
    space: ChoiceSpace, trials: Sequence[TrialRecord], metrics: Sequence[str]
) -> dict[str, LayerSums]:
    """Return each metric as a sum over the layers; without those of which too little is known."""
    models: dict[str, LayerSums] = {}
    for name in metrics:
        read = [record for record in trials if name in record.metrics]
        values = [record.metrics[name] for record in read]
        if len(read) >= LEAST and len(set(values)) > 1:  # of equal values nothing is learnt
            models[name] = LayerSums(space).fit([record.architecture for record in read], values)
    return models


def _members(space: SearchSpace, layer: int, family: str) -> list[str]:
    return [name for name in space.layers[layer].candidates if space.operator_of(name) == family]
