"""Hand-made and stored architectures, and how they are said in another space."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from search_space.architecture import load_architecture
from search_space.reference_networks import REFERENCES, reference_architecture
from search_space.registry import get_operator
from search_space.space import SKIP, Architecture, SearchSpace


def named_architecture(
    name: str, plugins: Sequence[str | os.PathLike[str]] = ()
) -> tuple[SearchSpace, Architecture]:
    """Return a hand-made network such as ``evolute_rednet50``, or that of an ``architecture.yaml``.

    Args:
        plugins: As for `load_architecture`.

    Raises:
        UserError: There is neither such a network nor such a file.
    """
    if name in REFERENCES or not Path(name).suffix:
        return reference_architecture(name)
    return load_architecture(name, plugins)


def translate(architecture: Architecture, source: SearchSpace, target: SearchSpace) -> Architecture:
    """Say an architecture of one space in the words of another.

    Find the target's candidates that are the same operators with the same options.
    Stage by stage; where the target has more layers, the rest is skipped.

    Raises:
        UserError: The target has other stages, too few layers, or lacks an operator.
    """
    if len(source.config.stages) != len(target.config.stages):
        raise UserError(
            f"a network of {len(source.config.stages)} stages can't start a search of "
            f"{len(target.config.stages)} stages"
        )
    choices: list[str] = []
    for stage in range(len(target.config.stages)):
        wanted = [
            name
            for layer, name in zip(source.layers, source.canonical(architecture))
            if layer.stage == stage and not (source.is_skip(name) and layer.keeps_shape)
        ]
        layers = [layer for layer in target.layers if layer.stage == stage]
        if len(wanted) > len(layers):
            raise UserError(f"stage {stage}: {len(wanted)} layers don't fit into {len(layers)}")
        for position, layer in enumerate(layers):
            meant = _meaning(source, wanted[position]) if position < len(wanted) else (SKIP, {})
            found = next((c for c in layer.candidates if _meaning(target, c) == meant), None)
            if found is None:
                options = ", ".join(f"{key}={value}" for key, value in meant[1].items())
                raise UserError(
                    f"stage {stage}, layer {position}: no candidate is {meant[0]}({options})"
                )
            choices.append(found)
    return target.canonical(tuple(choices))


def _meaning(space: SearchSpace, candidate: str) -> tuple[str, dict[str, Any]]:
    """Return a candidate's operator and all its options, defaults included."""
    options = dict(space.config.candidates[candidate])
    name = options.pop("operator")
    parameters = list(inspect.signature(get_operator(name)).parameters.values())[3:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    if options.get("width") == 1:
        del options["width"]
    return name, {**defaults, **options}
