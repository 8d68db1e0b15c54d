"""What a configuration file says about the search space: stem, stages and candidates.

Plain dataclasses without any import beyond the standard library, so that the space can be read
on a machine that has torch and little else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from configs.errors import UserError

FORBID_UNKNOWN_KEYS = {"extra": "forbid"}  # read by pydantic when it checks a configuration file


def require(section: object, key: str, condition: bool, right: str) -> None:
    """Raise a `UserError` that names the key, its value and what would be right."""
    if not condition:
        raise UserError(f"{key}: {getattr(section, key)!r} is not possible; {right}")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The layers before the first stage."""

    __pydantic_config__ = FORBID_UNKNOWN_KEYS

    width: int = 32
    """Output channels."""
    stride: int = 1
    """1 keeps the image's size, 2 halves it, 4 adds a pooling after a stride of 2."""
    kind: Literal["conv", "resnet", "rednet"] = "conv"
    """`conv`: one 3x3 convolution (max-pooled for a stride of 4); `resnet`: 7x7; `rednet`:
    3x3 convolution, 3x3 involution, 3x3 convolution (the involution paper's)."""

    def __post_init__(self) -> None:
        require(self, "width", self.width >= 1, "a positive number of channels is needed")
        require(self, "stride", self.stride in (1, 2, 4), "choose 1, 2 or 4")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of layers of one width; the first of them carries the stride."""

    __pydantic_config__ = FORBID_UNKNOWN_KEYS

    width: int
    """Output channels of every layer of the stage."""
    depth: int
    """How many searchable layers. With `skip` among the candidates this is the largest depth."""
    stride: int = 1
    """Stride of the first layer."""
    block: str = "bottleneck"
    """What is around the searched operator: `bottleneck`, 1x1 convolutions that narrow and widen
    again; `inverted_residual`, that widen and narrow again; `ghost_residual`, the latter made of
    ghost modules; or a block of a plugin."""
    expansion: float = 4
    """Bottleneck: the operator works on width / expansion channels.
    Residuals: on expansion x the input's channels."""
    candidates: tuple[str, ...] = ()
    """Names of the stage's candidates; empty means every candidate of the space."""

    def __post_init__(self) -> None:
        require(self, "width", self.width >= 1, "a positive number of channels is needed")
        require(self, "depth", self.depth >= 1, "a stage has at least one layer")
        require(self, "stride", self.stride in (1, 2), "choose 1 or 2")
        require(self, "expansion", self.expansion > 0, "a positive factor is needed")
        different = len(set(self.candidates)) == len(self.candidates)
        require(self, "candidates", different, "each name can be given once")


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search space as written in a file; `search_space.SearchSpace` is built from it."""

    __pydantic_config__ = FORBID_UNKNOWN_KEYS

    stages: tuple[Stage, ...]
    """The searchable part, from the image's side to the classifier's."""
    candidates: dict[str, dict[str, Any]] = field(hash=False)  # a mapping has no hash
    """Candidate name -> `operator` and that operator's options."""
    stem: Stem = field(default_factory=Stem)
    """The layers before the first stage."""
    input_size: int = 32
    """Height and width of the images in pixels."""
    in_channels: int = 3
    """Channels of the images: 1 for grey, 3 for colour."""
    num_classes: int = 10
    """Classes of the data set."""
    head_width: int = 0
    """Channels of a 1x1 convolution between the last stage and the pooling; 0 for none."""

    def __post_init__(self) -> None:
        require(self, "stages", len(self.stages) > 0, "at least one stage is needed")
        require(self, "candidates", len(self.candidates) > 0, "at least one candidate is needed")
        require(self, "input_size", self.input_size >= 1, "a positive number of pixels is needed")
        require(self, "in_channels", self.in_channels >= 1, "a positive number is needed")
        require(self, "num_classes", self.num_classes >= 2, "at least two classes are needed")
        require(self, "head_width", self.head_width >= 0, "0 (none) or a positive number is needed")
        for name, options in self.candidates.items():
            if "operator" not in options:
                raise UserError(f"candidates.{name}: the key `operator` is missing")


def space_from_dict(values: dict[str, Any]) -> Space:
    """Build the dataclasses from nested mappings, as found in an ``architecture.yaml``.

    Raises:
        UserError: A key is unknown or missing.
    """
    try:
        values = dict(values)
        stages = tuple(
            Stage(**{**stage, "candidates": tuple(stage.get("candidates", ()))})
            for stage in values.pop("stages")
        )
        stem = Stem(**values.pop("stem", {}))
        return Space(stages=stages, stem=stem, **values)
    except KeyError as error:
        raise UserError(f"space: the key {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"space: {error}") from None
