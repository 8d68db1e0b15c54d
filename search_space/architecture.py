"""An architecture on disk: one self-contained YAML file with the space and the choices.

That of a trained network also says what its weights expect, under ``pretrained_cfg`` and in timm's
words: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode`` and
``label_names``. The weights lie beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.atomic import write_atomically
from configs.errors import UserError
from configs.loading import read_yaml
from search_space.space import Architecture, SearchSpace

WEIGHTS = "weights.safetensors"


def save_architecture(
    path: str | os.PathLike[str],
    space: SearchSpace,
    architecture: Architecture,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``architecture.yaml`` atomically; plugins are copied beside it.

    Args:
        pretrained_cfg: What the weights of a trained network expect; plain values.

    Raises:
        UserError: The architecture is not in the space.
    """
    space.validate(architecture)
    path = Path(path)
    values = space.to_dict()
    for plugin in space.plugins:
        copy = path.parent / Path(plugin).name
        if not copy.exists() or not copy.samefile(plugin):
            write_atomically(copy, Path(plugin).read_bytes())
    if space.plugins:
        values["plugins"] = [Path(plugin).name for plugin in space.plugins]
    values = {"architecture": list(architecture), **values}
    if pretrained_cfg is not None:
        values["pretrained_cfg"] = dict(pretrained_cfg)
    write_atomically(path, yaml.safe_dump(values, sort_keys=False))
    return path


def load_architecture(path: str | os.PathLike[str]) -> tuple[SearchSpace, Architecture]:
    """Read a file that `save_architecture` wrote.

    Raises:
        UserError: The file is missing or incomplete, or its choices do not fit its space.
    """
    path = Path(path)
    values = read_yaml(path)
    for key in ("architecture", "space"):
        if key not in values:
            raise UserError(f"{path}: the key `{key}` is missing; is it an architecture.yaml?")
    try:
        space = SearchSpace.from_dict(values, path.parent)
        if not isinstance(values["architecture"], list):
            raise UserError(f"architecture: {values['architecture']!r} is no list of names")
        architecture = tuple(map(str, values["architecture"]))
        space.validate(architecture)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return space, architecture


def load_pretrained_cfg(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what the weights of a trained network expect; empty for one that was not trained.

    Raises:
        UserError: The file is missing or damaged, or timm knows no such key.
    """
    from timm.models import PretrainedCfg

    values = read_yaml(Path(path)).get("pretrained_cfg", {})
    if not isinstance(values, dict):
        raise UserError(f"{path}: pretrained_cfg: {values!r} holds no keys")
    try:
        PretrainedCfg(**values)
    except TypeError as error:
        raise UserError(f"{path}: pretrained_cfg: {error}") from None
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
