"""What can be retrained: an architecture of a space, or a model of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from torch import nn

from configs import UserError, config_to_dict
from configs.atomic import write_atomically
from configs.suggestions import did_you_mean
from evaluators import count_macs
from search.space_profile import uniform_architectures
from search_space import Architecture, SearchSpace, build_network, save_architecture

CONVOLUTIONS = ("convolution", "depthwise")


class Blueprint(Protocol):
    """What a network is built from; its plugins must have been loaded."""

    @property
    def architecture(self) -> Architecture:
        """The choices; none of a network that no search space is behind."""

    @property
    def scale(self) -> float:
        """By what the stage widths of the space that is searched were multiplied."""

    @property
    def plain(self) -> bool:
        """Whether one candidate is used throughout."""

    @property
    def identity(self) -> list[Any]:
        """Plain values that differ where the networks do."""

    def build(self) -> nn.Module:
        """Return the network, freshly initialised."""

    def save(self, folder: Path, expected: Mapping[str, Any]) -> None:
        """Write the file from which the network is built again.

        Args:
            expected: What the weights expect of images; see `experiments.programs.pretrained_cfg`.
        """


@dataclass(frozen=True)
class InSpace:
    """An architecture of a space; see `Blueprint`."""

    space: SearchSpace
    architecture: Architecture
    scale: float = 1.0

    @property
    def plain(self) -> bool:
        return is_plain(self.space, self.architecture)

    @property
    def identity(self) -> list[Any]:
        plugins = [Path(plugin).read_text(encoding="utf-8") for plugin in self.space.plugins]
        return [config_to_dict(self.space.config), self.architecture, plugins]

    def build(self) -> nn.Module:
        return build_network(self.space, self.architecture)

    def save(self, folder: Path, expected: Mapping[str, Any]) -> None:
        save_architecture(folder / "architecture.yaml", self.space, self.architecture, expected)


@dataclass(frozen=True)
class OfTimm:
    """A model of timm's, from scratch, for the images of a space; see `Blueprint`.

    It is kept as ``timm.yaml``: there is no search space behind it.
    """

    name: str
    num_classes: int
    in_channels: int
    architecture: Architecture = ()
    scale: float = 1.0
    plain: bool = False

    @property
    def identity(self) -> list[Any]:
        return ["timm", self.name, self.num_classes, self.in_channels]

    def build(self) -> nn.Module:
        import timm

        return timm.create_model(self.name, num_classes=self.num_classes, in_chans=self.in_channels)

    def save(self, folder: Path, expected: Mapping[str, Any]) -> None:
        values = {"model": self.name, "num_classes": self.num_classes,
                  "in_chans": self.in_channels, "pretrained_cfg": dict(expected)}  # fmt: skip
        write_atomically(folder / "timm.yaml", yaml.safe_dump(values, sort_keys=False))


def timm_models(names: str, space: SearchSpace) -> list[OfTimm]:
    """Return the models that a list such as ``resnet18,mobilenetv3_small_050`` names.

    Raises:
        UserError: timm has no such model, or it can't take the images of the space.
    """
    import timm

    models = []
    for name in dict.fromkeys(filter(None, map(str.strip, names.split(",")))):
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(), "see timm.list_models()")
            raise UserError(f"--against: {name!r} is no timm model; {hint}")
        model = OfTimm(name, space.num_classes, space.in_channels)
        shape = (1, space.in_channels, space.input_size, space.input_size)
        try:
            count_macs(model.build(), shape)
        except Exception as error:  # whatever a model raises
            image = "x".join(map(str, shape[1:]))
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"--against: {name} cannot take images of {image} ({reason}); name another model"
            ) from None
        models.append(model)
    return models


def all_convolution(space: SearchSpace) -> Architecture:
    """Return the first convolution of every layer; its first candidate where there is none."""
    return tuple(
        next(
            (name for name in layer.candidates if space.operator_of(name) in CONVOLUTIONS),
            layer.candidates[0],
        )
        for layer in space.layers
    )


def is_plain(space: SearchSpace, architecture: Architecture) -> bool:
    """Return whether an architecture has one candidate throughout, at any depth.

    Where stages offer different candidates it may have the first of a layer, or the first
    convolution.
    """
    if len({name for name in architecture if not space.is_skip(name)}) == 1:
        return True
    plain = {space.canonical(all_convolution(space)), *uniform_architectures(space)}
    return space.canonical(architecture) in plain
