"""Every architecture as a timm model: ``timm.create_model("evolute", architecture=...)``."""

from __future__ import annotations

import os
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from configs.errors import UserError
from search_space.architecture import load_architecture
from search_space.network import Network
from search_space.space import Architecture, SearchSpace

default_cfgs = generate_default_cfgs(
    {"evolute.untrained": {"url": "", "first_conv": "stem.0", "classifier": "fc"}}
)


@register_model
def evolute(
    pretrained: bool = False, *, architecture: str | os.PathLike[str], **options: Any
) -> nn.Module:
    """Build the network of an ``architecture.yaml``.

    Args:
        architecture: Path of the file.
        options: What `timm.create_model` passes on: ``num_classes``, ``features_only``,
            ``out_indices``, ``in_chans`` (only the space's own).

    Returns:
        A `Network`, or timm's feature extractor around one.
    """
    space, choices = load_architecture(architecture)
    return timm_network("evolute", space, choices, pretrained, **options)


def timm_network(
    variant: str, space: SearchSpace, choices: Architecture, pretrained: bool, **options: Any
) -> nn.Module:
    """Build an architecture as the timm model that is registered under the name `variant`."""

    def build(num_classes: int = space.num_classes, in_chans: int = space.in_channels) -> Network:
        if in_chans != space.in_channels:
            raise UserError(
                f"in_chans: {in_chans} is not possible; the space has {space.in_channels}"
            )
        return Network(space, choices, num_classes)

    size = (space.in_channels, space.input_size, space.input_size)
    overlay = {"input_size": size, "num_classes": space.num_classes}
    network = build_model_with_cfg(
        build,
        variant,
        pretrained,
        pretrained_cfg_overlay={**overlay, **(options.pop("pretrained_cfg_overlay", None) or {})},
        feature_cfg={
            "out_indices": tuple(range(len(space.config.stages))),
            "flatten_sequential": True,
        },
        **options,
    )
    if not isinstance(network, Network):
        network.register_load_state_dict_pre_hook(_rename_for_features)
    return network


def _rename_for_features(features: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Put a whole network's weights under the names that timm's feature extractors give them.

    They flatten `stages.0.` to `stages_0.` and leave out the classifier and unused stages.
    """
    wanted = features.state_dict().keys()
    for key in list(state):
        if key.split(".")[0] in ("stem", "stages", "head", "fc") and key not in wanted:
            value, flat = state.pop(key), key.replace(".", "_", 1)
            if flat in wanted:
                state[flat] = value
