"""An architecture on disk: one self-contained YAML file with the space and the choices."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from configs.atomic import write_atomically
from configs.errors import UserError
from configs.loading import read_yaml
from search_space.space import Architecture, SearchSpace


def save_architecture(
    path: str | os.PathLike[str], space: SearchSpace, architecture: Architecture
) -> Path:
    """Write ``architecture.yaml`` atomically; plugins are copied beside it.

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
