"""Every architecture as a timm model: ``timm.create_model("evolute", architecture=...)``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from search_space.architecture import WEIGHTS, load_architecture, load_pretrained_cfg
from search_space.network import Network
from search_space.space import Architecture, SearchSpace

default_cfgs = generate_default_cfgs({"evolute.untrained": {"url": "", "classifier": "fc"}})


@register_model
def evolute(
    pretrained: bool = False,
    *,
    architecture: str | os.PathLike[str],
    plugins: Sequence[str | os.PathLike[str]] = (),
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build the network of an ``architecture.yaml``.

    A trained network's file says what images its weights expect: ``pretrained_cfg`` has it, and
    `timm.data.resolve_model_data_config` answers it.

    Args:
        pretrained: Load ``weights.safetensors``, which lies beside the file, adapted by timm to
            other ``num_classes`` and ``in_chans``.
        architecture: Path of the file.
        plugins: Files it may run though they lie outside its folder.
        options: What `timm.create_model` passes on: ``num_classes``, ``in_chans``, ``global_pool``,
            ``drop_rate``, ``drop_path_rate``, ``features_only``, ``out_indices``.

    Returns:
        A `Network`, or timm's feature extractor around one.

    Raises:
        UserError: The file is missing or damaged.
    """
    space, choices = load_architecture(architecture, plugins)
    weights = Path(architecture).with_name(WEIGHTS)
    overlay = {
        "input_size": (space.in_channels, space.input_size, space.input_size),
        **load_pretrained_cfg(architecture),
        **({"file": str(weights)} if weights.exists() else {}),
        **(pretrained_cfg_overlay or {}),
    }
    return timm_network("evolute", space, choices, pretrained, overlay, **options)


def timm_network(
    variant: str,
    space: SearchSpace,
    choices: Architecture,
    pretrained: bool,
    pretrained_cfg_overlay: dict[str, Any],
    **options: Any,
) -> nn.Module:
    """Build an architecture as the timm model that is registered under the name `variant`."""
    first = "stem.0.0" if space.config.stem.kind == "rednet" else "stem.0"
    network = build_model_with_cfg(
        partial(Network, space, choices),
        variant,
        pretrained,
        pretrained_cfg_overlay={
            "num_classes": space.num_classes,
            "first_conv": first,
            **pretrained_cfg_overlay,
        },
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
