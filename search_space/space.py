"""What can be built, and how to move among it: spaces whose points are plain tuples of names."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from configs.errors import UserError
from configs.loading import config_to_dict, find_config, read_yaml
from configs.registry import load_plugins, plugins_of_architecture
from configs.space import EXPANSION, Space, space_from_dict
from configs.suggestions import did_you_mean
from search_space.blocks import BLOCKS
from search_space.registry import build_operator

Architecture = tuple[str, ...]

SKIP = "skip"  # the operator that leaves its layer out


@dataclass(frozen=True)
class Layer:
    """One searchable position. The shapes are those of its block."""

    candidates: tuple[str, ...]
    stage: int = 0
    in_channels: int = 0
    out_channels: int = 0
    stride: int = 1

    @property
    def keeps_shape(self) -> bool:
        """Return whether a map leaves the layer as it came: skipped, the layer is then nothing."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, init=False)
class ChoiceSpace:
    """A space with no network behind it, for tables, simulators and remote devices.

    Args:
        candidates_per_layer: For each layer the names to choose from.
    """

    layers: tuple[Layer, ...]

    def __init__(self, candidates_per_layer: Sequence[Sequence[str]]) -> None:
        layers = tuple(Layer(tuple(candidates)) for candidates in candidates_per_layer)
        object.__setattr__(self, "layers", layers)
        if not layers:
            raise UserError("candidates_per_layer: at least one layer is needed")
        for index, layer in enumerate(layers):
            if not layer.candidates or len(set(layer.candidates)) < len(layer.candidates):
                raise UserError(
                    f"layer {index}: {layer.candidates!r} is not possible; "
                    "one or more different names are needed"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values: ``space``, which tells it from any other space."""
        return {"space": [list(layer.candidates) for layer in self.layers]}

    @property
    def size(self) -> int:
        """Count the architectures, equal networks apart."""
        return math.prod(len(layer.candidates) for layer in self.layers)

    def _repr_html_(self) -> str:
        """Show the layers in a notebook."""
        head = ("layer", "stage", "in", "out", "stride", "candidates")
        rows = [
            (number, layer.stage, layer.in_channels or "", layer.out_channels or "", layer.stride,
             " ".join(layer.candidates))
            for number, layer in enumerate(self.layers)
        ]  # fmt: skip
        lines = ["".join(f"<td>{escape(str(value))}</td>" for value in row) for row in rows]
        titles = "".join(f"<th>{title}</th>" for title in head)
        table = "".join(f"<tr>{line}</tr>" for line in (titles, *lines))
        return f"<p>{self.size:,} architectures of {len(rows)} layers</p><table>{table}</table>"

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture in canonical form, every layer uniformly."""
        return self.canonical(tuple(_draw(layer.candidates, rng) for layer in self.layers))

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Return another architecture: layers are redrawn with probability 1/layers, at least one.

        Equal networks count as one, so the result differs as a network. A space of a single
        network returns that one.
        """
        origin = self.canonical(architecture)
        open_layers = [i for i, layer in enumerate(self.layers) if len(layer.candidates) > 1]
        for _ in range(100):
            if not open_layers:
                break
            chosen = {i for i in open_layers if rng.random() < 1 / len(open_layers)}
            chosen.add(open_layers[rng.integers(len(open_layers))])
            mutated = self.canonical(
                tuple(
                    _draw([c for c in layer.candidates if c != name], rng) if i in chosen else name
                    for i, (layer, name) in enumerate(zip(self.layers, origin))
                )
            )
            if mutated != origin:
                return mutated
        return origin

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each layer from one of two parents at random; return the canonical form."""
        return self.canonical(tuple(pair[rng.integers(2)] for pair in zip(a, b)))

    def is_skip(self, candidate: str) -> bool:
        """Return whether a candidate leaves its layer out; here none does."""
        return False

    def operator_of(self, candidate: str) -> str:
        """Return the operator family behind a candidate's name; here each is its own."""
        return candidate

    def width_of(self, candidate: str) -> float:
        """Return on which share of its block's channels a candidate works; here all do on all."""
        return 1.0

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the one architecture of all that are equal networks; here each is its own."""
        return tuple(architecture)

    def validate(self, architecture: Architecture) -> None:
        """Check that an architecture is in the space.

        Raises:
            UserError: Names the layer and the nearest valid candidate.
        """
        if isinstance(architecture, str) or len(architecture) != len(self.layers):
            raise UserError(
                f"architecture {architecture!r}: {len(self.layers)} names are needed, one a layer"
            )
        for index, (layer, name) in enumerate(zip(self.layers, architecture)):
            if name not in layer.candidates:
                hint = did_you_mean(name, layer.candidates)
                raise UserError(f"layer {index}: {name!r} is not a candidate; {hint}")


@dataclass(frozen=True, init=False)
class SearchSpace(ChoiceSpace):
    """Stages of searchable layers with their stem and classifier: networks that can be built.

    A skipped layer is nothing where the shape stays, else what `Block.skipped` makes of it.

    Args:
        config: The space as a configuration file says it.
        plugins: Python files that register operators or blocks; they are loaded here.

    Raises:
        UserError: A block, a candidate, an operator or one of its options does not exist.
    """

    config: Space
    plugins: tuple[str, ...]

    def __init__(self, config: Space, plugins: Sequence[str | os.PathLike[str]] = ()) -> None:
        object.__setattr__(self, "config", config)
        object.__setattr__(self, "plugins", tuple(os.fspath(plugin) for plugin in plugins))
        load_plugins(self.plugins)
        for index, stage in enumerate(config.stages):
            if stage.block not in BLOCKS:
                hint = did_you_mean(stage.block, sorted(BLOCKS))
                raise UserError(
                    f"space.stages.{index}.block: {stage.block!r} does not exist; {hint}"
                )
        object.__setattr__(self, "layers", tuple(_layers(config)))
        for name in config.candidates:
            if hasattr(nn.ModuleDict(), name):  # the supernet keeps candidates in one
                raise UserError(
                    f"space.candidates: the name {name!r} is not possible; torch has a use of its "
                    f"own for it, so write {name + '1'!r}, for example"
                )
        # Built only to be checked: what follows draws the same numbers with and without a space.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            for name in config.candidates:
                self.build_candidate(name, 8, 8, 1)

    @classmethod
    def from_yaml(
        cls, path: str | os.PathLike[str], plugins: Sequence[str | os.PathLike[str]] = ()
    ) -> SearchSpace:
        """Read the space of a configuration file, a preset or an ``architecture.yaml``.

        Args:
            plugins: Files that an ``architecture.yaml`` may run though they lie elsewhere.

        Raises:
            UserError: The file is missing or its space is wrong, or an ``architecture.yaml`` names
                a plugin that lies outside its folder and is not listed.
        """
        file = find_config(path)
        values = read_yaml(file)
        if "space" not in values:
            raise UserError(f"{file}: the key `space` is missing")
        try:
            if "architecture" not in values:
                return cls.from_dict(values, file.parent)
            named = values.get("plugins") or []
            trusted = plugins_of_architecture(named, file.parent, plugins)
            return cls(space_from_dict(values["space"]), trusted)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any], folder: Path | None = None) -> SearchSpace:
        """Invert `to_dict`; plugins are looked for in `folder`, then in the working directory."""
        plugins = []
        named = values.get("plugins") or []
        if not isinstance(named, list) or not all(isinstance(plugin, str) for plugin in named):
            raise UserError(f"plugins: {named!r} is not possible; a list of files is needed")
        for plugin in named:
            beside = (folder or Path()) / plugin
            plugins.append(beside if beside.exists() else Path(plugin))
        return cls(space_from_dict(values["space"]), plugins)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values: ``space`` and, where there are any, ``plugins``."""
        values: dict[str, Any] = {"space": config_to_dict(self.config)}
        if self.plugins:
            values["plugins"] = list(self.plugins)
        return values

    @property
    def input_size(self) -> int:
        """Return the height and width of the images in pixels."""
        return self.config.input_size

    @property
    def in_channels(self) -> int:
        """Return the channels of the images."""
        return self.config.in_channels

    @property
    def num_classes(self) -> int:
        """Return how many classes the data set has."""
        return self.config.num_classes

    def operator_of(self, candidate: str) -> str:
        """Return the operator family behind a candidate's name."""
        return self.config.candidates[candidate]["operator"]

    def width_of(self, candidate: str) -> float:
        """Return on which share of its block's inner channels a candidate's operator works."""
        return float(self.config.candidates[candidate].get("width", 1))

    def is_skip(self, candidate: str) -> bool:
        """Return whether a candidate leaves its layer out."""
        return self.operator_of(candidate) == SKIP

    def build_candidate(
        self, name: str, in_channels: int, out_channels: int, stride: int
    ) -> nn.Module:
        """Build the candidate's operator.

        Raises:
            UserError: Names the candidate and what is wrong with it.
        """
        options = dict(self.config.candidates[name])
        operator = options.pop("operator")
        options.pop("width", None)  # of the block
        try:
            return build_operator(operator, in_channels, out_channels, stride, **options)
        except UserError as error:
            raise UserError(f"space.candidates.{name}: {error}") from None
        except Exception as error:  # whatever an operator of one's own raises
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"space.candidates.{name}: {operator!r} fails: {reason}") from error

    def canonical(self, architecture: Architecture) -> Architecture:
        """Move skips to the end of each run of layers with equal shapes and candidates.

        Skipping the second or the third of three equal layers leaves the same stand-alone network.
        """
        canonical: list[str] = []
        start = 0
        for end in range(1, len(self.layers) + 1):
            if end == len(self.layers) or self.layers[end] != self.layers[start]:
                canonical += sorted(architecture[start:end], key=self.is_skip)  # stable
                start = end
        return tuple(canonical)


def _layers(config: Space) -> list[Layer]:
    layers = []
    channels = config.stem.width
    for index, stage in enumerate(config.stages):
        names = stage.candidates or tuple(config.candidates)
        for name in names:
            if name not in config.candidates:
                hint = did_you_mean(name, config.candidates, "define it under space.candidates")
                raise UserError(f"space.stages.{index}.candidates: {name!r} is not defined; {hint}")
        if BLOCKS[stage.block].whole_layer:
            _check_whole_layers(config, index, names)
        for position in range(stage.depth):
            stride = stage.stride if position == 0 else 1
            layers.append(Layer(names, index, channels, stage.width, stride))
            channels = stage.width
    return layers


def _check_whole_layers(config: Space, index: int, names: Sequence[str]) -> None:
    """Refuse what has no effect where candidates are whole layers."""
    stage = config.stages[index]
    why = f"has no effect in block {stage.block!r}, where a candidate is the whole layer"
    if stage.expansion != EXPANSION:
        raise UserError(f"space.stages.{index}.expansion: {stage.expansion} {why}; leave it out")
    for name in names:
        if "width" in config.candidates[name]:
            width = config.candidates[name]["width"]
            raise UserError(f"space.candidates.{name}.width: {width} {why}; leave it out")


def _draw(names: Sequence[str], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]
