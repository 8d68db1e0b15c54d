"""Hand-made networks as points of the search space: ResNet, RedNet, SKNet, and two of ghosts.

Papers: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/2103.06255,
https://arxiv.org/abs/1903.06586, https://arxiv.org/abs/1911.11907. Parameter counts of the first
three are the published ones, up to rounding; shortcuts are pooled before they are projected, which
costs none. `ghost_resnet` has ghosts in place of the 3x3 convolutions; `ghostnet` has GhostNet's
widths, without what `GhostResidual` leaves out and the 1280 channels behind the pooling.
Importing this module registers all of them with timm::

    timm.create_model("evolute_rednet50", num_classes=10)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from timm.models import generate_default_cfgs, register_model
from torch import nn

from configs.errors import UserError
from configs.space import Space, Stage, Stem
from configs.suggestions import did_you_mean
from search_space.space import Architecture, SearchSpace
from search_space.timm_entry import timm_network

DEPTHS = {  # layers of the four stages
    26: (1, 2, 4, 1),
    38: (2, 3, 5, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "conv3": {"operator": "convolution", "kernel_size": 3},
    "inv7": {"operator": "involution", "kernel_size": 7},
    "sk": {"operator": "selective_kernel"},
    "ghost3": {"operator": "ghost", "kernel_size": 3},
    "dw3": {"operator": "depthwise", "kernel_size": 3},
    "dw5": {"operator": "depthwise", "kernel_size": 5},
}


@dataclass(frozen=True)
class Family:
    """One candidate in every layer of a ResNet."""

    candidate: str
    depths: tuple[int, ...] = tuple(DEPTHS)
    stem: Literal["resnet", "rednet"] = "resnet"
    expansion: int = 4


FAMILIES = {
    "resnet": Family("conv3"),
    "rednet": Family("inv7", stem="rednet"),
    "sknet": Family("sk", depths=(50, 101), expansion=2),
    "ghost_resnet": Family("ghost3"),
}
GHOSTNET = (  # width, stride, expansion, kernel size of each layer (table 1 of the paper)
    (16, 1, 1, 3), (24, 2, 3, 3), (24, 1, 3, 3), (40, 2, 3, 5), (40, 1, 3, 5), (80, 2, 6, 3),
    (80, 1, 2.5, 3), (80, 1, 2.3, 3), (80, 1, 2.3, 3), (112, 1, 6, 3), (112, 1, 6, 3),
    (160, 2, 6, 5), (160, 1, 6, 5), (160, 1, 6, 5), (160, 1, 6, 5), (160, 1, 6, 5),
)  # fmt: skip


def _resnet_like(family: Family, depth: int) -> tuple[Space, Architecture]:
    stages = tuple(
        Stage(
            width=256 * 2**index,
            depth=layers,
            stride=1 if index == 0 else 2,
            expansion=family.expansion,
        )
        for index, layers in enumerate(DEPTHS[depth])
    )
    stem = Stem(kind=family.stem, width=64, stride=4)
    return _imagenet(stages, stem), (family.candidate,) * sum(DEPTHS[depth])


def _ghostnet() -> tuple[Space, Architecture]:
    stages = tuple(
        Stage(width=width, depth=1, stride=stride, expansion=expansion, block="ghost_residual")
        for width, stride, expansion, _ in GHOSTNET
    )
    space = _imagenet(stages, Stem(width=16, stride=2), head_width=960)
    return space, tuple(f"dw{kernel_size}" for *_, kernel_size in GHOSTNET)


def _imagenet(stages: tuple[Stage, ...], stem: Stem, head_width: int = 0) -> Space:
    return Space(
        stages=stages,
        candidates=CANDIDATES,
        stem=stem,
        input_size=224,
        num_classes=1000,
        head_width=head_width,
    )


REFERENCES: dict[str, Callable[[], tuple[Space, Architecture]]] = {
    f"evolute_{name}{depth}": partial(_resnet_like, family, depth)
    for name, family in FAMILIES.items()
    for depth in family.depths
} | {"evolute_ghostnet": _ghostnet}


def reference_architecture(name: str, in_channels: int = 3) -> tuple[SearchSpace, Architecture]:
    """Return the space of a hand-made network, and its point in it.

    The space is for 1000 classes at 224 pixels and has all `CANDIDATES` in every layer.

    Args:
        name: Such as ``evolute_rednet50``.
        in_channels: Channels of the images.

    Raises:
        UserError: No network has that name; the message names the nearest one.
    """
    if name not in REFERENCES:
        hint = did_you_mean(name, REFERENCES)
        raise UserError(f"{name!r} is not a reference network; {hint}")
    config, architecture = REFERENCES[name]()
    return SearchSpace(replace(config, in_channels=in_channels)), architecture


default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": {"url": "", "classifier": "fc"} for name in REFERENCES}
)


def _register(name: str) -> None:
    def entry(
        pretrained: bool = False,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **options: Any,
    ) -> nn.Module:
        # Weights of one's own are for colour images, which timm adapts; without, any number builds.
        channels = 3 if pretrained else options.get("in_chans") or 3
        space, architecture = reference_architecture(name, channels)
        overlay = {"input_size": (channels, space.input_size, space.input_size)}
        overlay |= pretrained_cfg_overlay or {}
        return timm_network(name, space, architecture, pretrained, overlay, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"The reference network {name}; see `reference_architecture`."
    register_model(entry)


for _name in REFERENCES:
    _register(_name)
