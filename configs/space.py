"""What a configuration file says about the search space: stem, stages and candidates.

Plain dataclasses without any import beyond the standard library, so that the space can be read
on a machine that has torch and little else.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.errors import UserError

# Read by pydantic when it checks a configuration file: no unknown keys, no infinite number or NaN.
STRICT = {"extra": "forbid", "allow_inf_nan": False}

MOST_CHANNELS = 2**16
EXPANSION = 4.0  # of a stage that does not say it
CANDIDATE_NAME = re.compile(r"[^\W_][\w-]*")  # a letter or a digit first


def require(section: object, key: str, condition: bool, right: str) -> None:
    """Raise a `UserError` that names the key, its value and what would be right."""
    if not condition:
        raise UserError(f"{key}: {getattr(section, key)!r} is not possible; {right}")


def require_between(section: object, key: str, least: int, most: int) -> None:
    """Raise a `UserError` where a number is not in a range, whose ends are included."""
    right = f"a number from {least} to {most} is needed"
    require(section, key, least <= getattr(section, key) <= most, right)


def check_types(section: object) -> None:
    """Refuse values of a wrong type: a space may come from Python or an ``architecture.yaml``.

    pydantic does so for a configuration file; it is not needed to read a space.
    """
    hints = typing.get_type_hints(type(section))
    for field_ in dataclasses.fields(section):  # type: ignore[arg-type]
        kind, value = hints[field_.name], getattr(section, field_.name)
        if kind is int:
            require(section, field_.name, type(value) is int, "a whole number is needed")
        elif kind is float:
            right = type(value) in (int, float) and -math.inf < value < math.inf
            require(section, field_.name, right, "a finite number is needed")
        elif kind is bool:
            require(section, field_.name, type(value) is bool, "true or false is needed")
        elif kind is str:
            require(section, field_.name, type(value) is str, "a text is needed")
        elif kind == tuple[str, ...]:
            right = type(value) is tuple and all(type(item) is str for item in value)
            require(section, field_.name, right, "a list of texts is needed")
        elif typing.get_origin(kind) is Literal:
            known = typing.get_args(kind)
            require(section, field_.name, value in known, f"choose one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The layers before the first stage."""

    __pydantic_config__ = STRICT

    width: int = 32
    """Output channels."""
    stride: int = 1
    """1 keeps the image's size, 2 halves it, 4 adds a pooling after a stride of 2."""
    kind: Literal["conv", "resnet", "rednet"] = "conv"
    """`conv`: one 3x3 convolution (max-pooled for a stride of 4); `resnet`: 7x7; `rednet`:
    3x3 convolution, 3x3 involution, 3x3 convolution (the involution paper's)."""

    def __post_init__(self) -> None:
        check_types(self)
        require_between(self, "width", 1, MOST_CHANNELS)
        require(self, "stride", self.stride in (1, 2, 4), "choose 1, 2 or 4")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of layers of one width; the first of them carries the stride."""

    __pydantic_config__ = STRICT

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
    expansion: float = EXPANSION
    """Bottleneck: the operator works on width / expansion channels.
    Residuals: on expansion x the input's channels."""
    candidates: tuple[str, ...] = ()
    """Names of the stage's candidates; empty means every candidate of the space."""

    def __post_init__(self) -> None:
        check_types(self)
        require_between(self, "width", 1, MOST_CHANNELS)
        require_between(self, "depth", 1, 1000)
        require(self, "stride", self.stride in (1, 2), "choose 1 or 2")
        right = 1 / 64 <= self.expansion <= 64
        require(self, "expansion", right, "a factor from 1/64 to 64 is needed")
        different = len(set(self.candidates)) == len(self.candidates)
        require(self, "candidates", different, "each is named once")


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search space as written in a file; `search_space.SearchSpace` is built from it."""

    __pydantic_config__ = STRICT

    stages: tuple[Stage, ...]
    """The searchable part, from the image's side to the classifier's."""
    candidates: dict[str, dict[str, Any]] = field(hash=False)  # a mapping has no hash
    """Candidate name -> `operator`, that operator's options, and `width`: on which share of the
    block's inner channels the operator works (1 where it is not said)."""
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
        check_types(self)
        require(self, "stages", len(self.stages) > 0, "at least one stage is needed")
        require(self, "candidates", len(self.candidates) > 0, "at least one candidate is needed")
        require_between(self, "input_size", 1, 2**14)
        require_between(self, "in_channels", 1, MOST_CHANNELS)
        require_between(self, "num_classes", 2, 2**20)
        require_between(self, "head_width", 0, MOST_CHANNELS)
        for name, options in self.candidates.items():
            _check_candidate(name, options)


def _check_candidate(name: Any, options: Any) -> None:
    if type(name) is not str or not CANDIDATE_NAME.fullmatch(name):
        raise UserError(
            f"candidates: the name {name!r} is not possible; it begins with a letter or a digit, "
            "and letters, digits, `_` and `-` may follow"
        )
    if type(options) is not dict:
        raise UserError(f"candidates.{name}: {options!r} is not possible; `key: value` is needed")
    if "operator" not in options:
        raise UserError(f"candidates.{name}: the key `operator` is missing")
    if type(options["operator"]) is not str:
        operator = options["operator"]
        raise UserError(f"candidates.{name}.operator: {operator!r} is not possible; name one")
    width = options.get("width", 1)
    if type(width) not in (int, float) or not 1 / 64 <= width <= 64:
        raise UserError(
            f"candidates.{name}.width: {width!r} is not possible; a share from 1/64 to 64 of the "
            "block's inner channels is needed"
        )
    for key, value in options.items():
        if not _is_plain(value):
            raise UserError(
                f"candidates.{name}.{key}: {value!r} is not possible; a finite number, a text, "
                "true or false is needed, or a list of them"
            )


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(type(item) is not list and _is_plain(item) for item in value)
    if type(value) in (int, float):
        return -math.inf < value < math.inf
    return value is None or type(value) in (str, bool)


def space_from_dict(values: dict[str, Any]) -> Space:
    """Build the dataclasses from nested mappings, as found in an ``architecture.yaml``.

    Raises:
        UserError: A key is unknown or missing, or a value is not possible.
    """
    if type(values) is not dict or "stages" not in values:
        raise UserError("space: the key 'stages' is missing")
    values = dict(values)
    stages, stem = values.pop("stages"), values.pop("stem", {})
    if type(stages) is not list:
        raise UserError(f"space.stages: {stages!r} is not possible; a list is needed")
    return _build(
        Space,
        {
            **values,
            "stem": _build(Stem, stem, "space.stem"),
            "stages": tuple(
                _build(Stage, stage, f"space.stages.{i}") for i, stage in enumerate(stages)
            ),
        },
        "space",
    )


def _build(section: type, values: Any, key: str) -> Any:
    """Build one section; lists become tuples, and its errors are prefixed by its key."""
    try:
        return section(**{k: tuple(v) if type(v) is list else v for k, v in values.items()})
    except UserError as error:
        raise UserError(f"{key}.{error}") from None
    except (TypeError, AttributeError) as error:  # an unknown or a missing key, or no mapping
        raise UserError(f"{key}: {error}") from None
