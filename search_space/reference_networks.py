"""Hand-made networks as points of the search space: ResNet, RedNet, SKNet, and ResNets of ghosts.

Papers: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/2103.06255,
https://arxiv.org/abs/1903.06586, https://arxiv.org/abs/1911.11907 (section 4.2). Parameter counts
are the published ones, up to rounding; shortcuts are pooled before they are projected, which costs
none. Importing this module registers all of them with timm::

    timm.create_model("evolute_rednet50", num_classes=10)
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from timm.models import generate_default_cfgs, register_model
from torch import nn

from configs.errors import UserError
from configs.space import Space, Stage, Stem
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
REFERENCES = {
    f"evolute_{name}{depth}": (family, depth)
    for name, family in FAMILIES.items()
    for depth in family.depths
}


def reference_architecture(name: str, in_channels: int = 3) -> tuple[SearchSpace, Architecture]:
    """The space of a hand-made network, and its point in it.

    The space is for 1000 classes at 224 pixels and has all `CANDIDATES` in every layer.

    Args:
        name: Such as ``evolute_rednet50``.
        in_channels: Channels of the images.

    Raises:
        UserError: No network has that name; the message names the nearest one.
    """
    if name not in REFERENCES:
        near = difflib.get_close_matches(name, REFERENCES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(REFERENCES)}"
        raise UserError(f"{name!r} is not a reference network; {hint}")
    family, depth = REFERENCES[name]
    stages = tuple(
        Stage(
            width=256 * 2**index,
            depth=layers,
            stride=1 if index == 0 else 2,
            expansion=family.expansion,
        )
        for index, layers in enumerate(DEPTHS[depth])
    )
    config = Space(
        stages=stages,
        candidates=CANDIDATES,
        stem=Stem(kind=family.stem, width=64, stride=4),
        input_size=224,
        in_channels=in_channels,
        num_classes=1000,
    )
    space = SearchSpace(config)
    return space, (family.candidate,) * len(space.layers)


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "url": "",
            "first_conv": "stem.0.0" if family.stem == "rednet" else "stem.0",
            "classifier": "fc",
        }
        for name, (family, _) in REFERENCES.items()
    }
)


def _register(name: str) -> None:
    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        space, architecture = reference_architecture(name, options.get("in_chans") or 3)
        return timm_network(name, space, architecture, pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"The reference network {name}; see `reference_architecture`."
    register_model(entry)


for _name in REFERENCES:
    _register(_name)
