"""An architecture on disk: one self-contained YAML file with the space and the choices.

That of a trained network also says what its weights expect, under ``pretrained_cfg`` and in timm's
words: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode`` and
``label_names``. The weights lie beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
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
    if space.plugins:
        values["plugins"] = copy_plugins(space.plugins, path.parent)
    values = {"architecture": list(architecture), **values}
    if pretrained_cfg is not None:
        values["pretrained_cfg"] = dict(pretrained_cfg)
    write_atomically(path, yaml.safe_dump(values, sort_keys=False))
    return path


def copy_plugins(plugins: Iterable[str], folder: Path) -> list[str]:
    """Copy plugins into a folder and return their names there; no file is ever overwritten.

    A name that another file has already is given a hash of the content.
    """
    names = []
    for plugin in map(Path, plugins):
        content = plugin.read_bytes()
        copy = folder / plugin.name
        if copy.exists() and copy.read_bytes() != content:
            digest = hashlib.sha256(content).hexdigest()[:8]
            copy = folder / f"{plugin.stem.removesuffix(f'-{digest}')}-{digest}.py"
        if not copy.exists():
            write_atomically(copy, content)
        names.append(copy.name)
    return list(dict.fromkeys(names))


def load_architecture(
    path: str | os.PathLike[str], plugins: Sequence[str | os.PathLike[str]] = ()
) -> tuple[SearchSpace, Architecture]:
    """Read a file that `save_architecture` wrote; the plugins beside it are run.

    Args:
        plugins: Files that may be run though they lie elsewhere.

    Raises:
        UserError: The file is missing or incomplete, its choices do not fit its space, or it names
            a plugin that lies outside its folder and is not listed.
    """
    path = Path(path)
    values = read_yaml(path)
    for key in ("architecture", "space"):
        if key not in values:
            raise UserError(f"{path}: the key `{key}` is missing; is it an architecture.yaml?")
    space = SearchSpace.from_yaml(path, plugins)
    try:
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
