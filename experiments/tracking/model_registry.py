"""Retrained networks as versions of a registered MLflow model.

A version is a folder of plain files, never a pickle: whoever loads it needs Evolute and timm, or
only ONNX Runtime. Operators of one's own travel as the source file that registers them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError

FILES = (
    "architecture.yaml",
    "weights.safetensors",
    "metrics.json",
    "model.onnx",
    "model.onnx.data",
    "README.md",
)
NEEDED = FILES[:2]
CHAMPION = "champion"


@dataclass(frozen=True)
class Registered:
    """A registered model version. ``champion``: whether it became the one to use."""

    name: str
    version: int
    champion: bool


def check_model_name(name: str) -> None:
    """Check that the registry and a ``models:/NAME@champion`` URI take a name.

    Raises:
        UserError: They don't.
    """
    if not re.fullmatch(r"[\w.\- ]+", name):
        raise UserError(
            f"tracking.model_name: {name!r} should be letters, digits, '_', '-', '.' and spaces"
        )


def check_folder(folder: Path) -> None:
    """Check that a folder has what every version must have.

    Raises:
        UserError: A file is missing; the message names it.
    """
    missing = [file for file in NEEDED if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: {' and '.join(missing)} missing; cannot be registered")


def register_folder(
    client: Any, folder: Path, name: str, metrics: Mapping[str, float], run_id: str
) -> Registered:
    """Upload the model files of ``folder`` to MLflow run ``run_id`` and register them.

    ``client`` is an ``MlflowClient``. The files become the run's artifact folder ``model``, the
    version's source is ``runs:/RUN_ID/model``, and ``metrics`` become tags of the version.
    Doing it again for the same run answers with the version that is there.

    The alias ``champion`` moves to the new version when its ``accuracy`` (test split, percent) is
    strictly higher than the present champion's, or when there is none. Latency is not weighed:
    networks found under different latency limits belong under different names, or the larger
    limit wins.

    Raises:
        UserError: ``folder`` lacks the architecture or the weights.
    """
    check_model_name(name)
    check_folder(folder)
    plugins = [path.name for path in folder.glob("*.py")]  # `save_architecture` puts them there
    for file in (*FILES, *plugins):
        if (folder / file).is_file():
            client.log_artifact(run_id, str(folder / file), "model")
    _create_model(client, name)
    source = f"runs:/{run_id}/model"
    present = [v for v in client.search_model_versions(f"name='{name}'") if v.source == source]
    version = (
        present[0]
        if present
        else client.create_model_version(
            name,
            source,
            run_id=run_id,
            tags={key: repr(float(value)) for key, value in metrics.items()},
            await_creation_for=0,
        )
    )
    champion = _beats(metrics.get("accuracy"), find_champion(client, name))
    if champion:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    now = find_champion(client, name)
    is_champion = now is not None and now.version == version.version
    return Registered(name, int(version.version), is_champion)


def _create_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_champion(client: Any, name: str) -> Any | None:
    """Return the model version with the alias ``champion``, or None."""
    aliases = client.get_registered_model(name).aliases
    if CHAMPION not in aliases:
        return None
    return client.get_model_version(name, aliases[CHAMPION])


def _beats(accuracy: float | None, champion: Any | None) -> bool:
    if accuracy is None:
        return False  # nothing is known about it
    if champion is None:
        return True
    return accuracy > float(champion.tags.get("accuracy", "-inf"))
