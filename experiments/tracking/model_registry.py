"""Retrained networks as versions of a registered MLflow model.

A version is a folder of plain files, never a pickle: whoever loads it needs Evolute and timm, or
only ONNX Runtime. Operators of one's own travel as the source file that registers them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.kept import read_json

CARD = "README.md"
PYFUNC = (
    "MLmodel",
    "python_env.yaml",
    "conda.yaml",
    "requirements.txt",
    "input_example.json",
    "serving_input_example.json",
)
FILES = (
    "architecture.yaml",
    "weights.safetensors",
    "config.yaml",
    "metrics.json",
    "model.onnx",
    "model-dynamic.onnx",
    "model-openvino.onnx",
    "model-operators.onnx",
    CARD,
    "architecture.png",
    *PYFUNC,
)
NEEDED = FILES[:2]
CHAMPION, PREVIOUS = "champion", "previous"
LONGEST = 5000  # characters of a description that every store takes
ABOUT = (
    "Image classifiers that Evolute found and trained. `champion` is the best by validation "
    "accuracy among those of one recipe and the same data, `previous` the one before it."
)


@dataclass(frozen=True)
class Registered:
    """A registered model version. ``champion``: whether it is the one to use; else the reason."""

    name: str
    version: int
    champion: bool
    reason: str


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

    The alias ``champion`` moves to the new version when its ``validation_accuracy`` is higher than
    the present champion's (or equal, and its ``latency_ms`` lower), or when there is none; never to
    one that a plain network, such as the all-convolution baseline, dominates in both. The test
    split decides nothing. The one before it is ``previous`` then. Only networks of the same recipe,
    data and latency settings are compared, by ``conditions`` in their ``metrics.json``: the
    champion of others keeps the alias.

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
    versions = client.search_model_versions(f"name='{name}'")
    version = next((v for v in versions if v.source == source), None)
    if version is None:
        version = client.create_model_version(
            name,
            source,
            run_id=run_id,
            tags={**{key: repr(float(value)) for key, value in metrics.items()}, **_about(folder)},
            description=_card(folder),
            await_creation_for=0,
        )
    champion = find_champion(client, name)
    reason = _why_not(version, champion, versions)
    if not reason:
        if champion is not None and champion.version != version.version:
            client.set_registered_model_alias(name, PREVIOUS, champion.version)
        client.set_registered_model_alias(name, CHAMPION, version.version)
    return Registered(name, int(version.version), not reason, reason)


def dominates(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Return whether ``a`` is as accurate and as fast as ``b``, and better in one of the two.

    A network whose latency could not be measured neither dominates nor is dominated.
    """
    if not all("latency_ms" in metrics and "validation_accuracy" in metrics for metrics in (a, b)):
        return False
    ours, theirs = _quality(a), _quality(b)
    return ours != theirs and all(x >= y for x, y in zip(ours, theirs))


def _quality(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return validation accuracy and negated latency: higher is better, the first counts first."""
    return metrics["validation_accuracy"], -metrics.get("latency_ms", math.inf)


def _about(folder: Path) -> dict[str, str]:
    """Return what decides with which versions one is compared."""
    path = folder / "metrics.json"
    way_out = "the same `evolute retrain` writes it again"
    about = read_json(path, dict, way_out) if path.is_file() else {}
    return {key: str(about.get(key, "")) for key in ("conditions", "plain")}


def _card(folder: Path) -> str:
    """Return the model card for the page of the version, which has no picture to show with it."""
    card = folder / CARD
    if not card.is_file():
        return ""
    lines = card.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("!["))[:LONGEST]


def _why_not(version: Any, champion: Any | None, versions: Sequence[Any]) -> str:
    """Return why a version is not to be the champion; empty if it is."""
    metrics = _metrics(version)
    if "validation_accuracy" not in metrics:
        return "of unknown validation accuracy"
    if champion is not None and champion.version == version.version:
        return ""
    for other in versions:
        plain = _comparable(other, version) and other.tags.get("plain") == "True"
        if plain and dominates(_metrics(other), metrics):
            return f"dominated by version {other.version}, a plain network"
    if champion is None:
        return ""
    if not _comparable(champion, version):
        return (
            f"not compared with the champion, version {champion.version}, of another recipe or "
            "other data: move the alias yourself, or choose another tracking.model_name"
        )
    if _quality(metrics) > _quality(_metrics(champion)):
        return ""
    return f"not better than the champion, version {champion.version}"


def _comparable(a: Any, b: Any) -> bool:
    return a.tags.get("conditions", "") == b.tags.get("conditions", "")


def _metrics(version: Any) -> dict[str, float]:
    keys = ("validation_accuracy", "latency_ms")
    return {key: float(version.tags[key]) for key in keys if key in version.tags}


def _create_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_champion(client: Any, name: str) -> Any | None:
    """Return the model version with the alias ``champion``, or None."""
    aliases = client.get_registered_model(name).aliases
    if CHAMPION not in aliases:
        return None
    return client.get_model_version(name, aliases[CHAMPION])
