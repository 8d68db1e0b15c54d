"""The work directory of a run: which file lies where, and what may not change in it."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from configs import Config, UserError, config_to_dict, load_config
from configs.atomic import write_atomically
from configs.differences import first_difference
from experiments.tracking.journal import redact

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

SUPERNET_KEYS = ("seed", "space", "data", "train")  # fixed once a supernet is being trained
SPEED_KEYS = {  # by section; they never change a result
    "data": ("loading_workers", "memory_limit_mb"),
    "evaluate": ("cache_mb",),
}
STUDIES = "studies"


@dataclass(frozen=True)
class Workspace:
    """Everything a run writes lies below `directory`.

    Further studies on one supernet have directories of their own, ``studies/NAME``, with a
    configuration, a report and retrained networks; supernet and database are those of the `root`.
    """

    directory: Path

    def named(self, study: str) -> Workspace:
        """Return the work directory of another study on the same supernet.

        Raises:
            UserError: No directory can have that name.
        """
        if not re.fullmatch(r"[\w-][\w.-]*", study):
            raise UserError(
                f"--study: {study!r} is not possible; use letters, digits, `.`, `_` and `-`"
            )
        return Workspace(self.root / STUDIES / study)

    @property
    def root(self) -> Path:
        """Return the directory of the supernet."""
        parent = self.directory.absolute().parent
        return parent.parent if parent.name == STUDIES else self.directory

    def study_name(self, name: str) -> str:
        """Return the study's name in the database, for that of a configuration."""
        named = self.root != self.directory
        return f"{name}/{self.directory.name}" if named else name

    def keep(self, config: Config) -> None:
        """Write the configuration that the results to come belong to."""
        write_atomically(self.config, yaml.safe_dump(config_to_dict(config), sort_keys=False))

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def statistics(self) -> Path:
        return self.root / "statistics.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "supernet" / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.root / "supernet" / "weights.safetensors"

    @property
    def history(self) -> Path:
        return self.root / "supernet" / "history.json"

    @property
    def study(self) -> Path:
        return self.root / "study.db"

    @property
    def report(self) -> Path:
        return self.directory / "report"

    @property
    def verified(self) -> Path:
        return self.directory / "verified"

    @property
    def retrained(self) -> Path:
        return self.directory / "retrained"


def open_workspace(config: Config, out: Path | None = None, study: str = "") -> Workspace:
    """Return the work directory of a configuration; the default is ``runs/NAME``.

    Nothing is written: that is for what has results to keep (`Workspace.keep`).

    Args:
        study: Name of another study on the supernet of that directory.

    Raises:
        UserError: The supernet there is of another configuration.
    """
    workspace = Workspace(out or Path("runs") / config.name)
    if study:
        workspace = workspace.named(study)
    kept = Workspace(workspace.root)
    if kept.config.exists() and (kept.checkpoint.exists() or kept.weights.exists()):
        old, new = what_matters(load_config(kept.config)), what_matters(config)
        for key in SUPERNET_KEYS:
            if difference := first_difference(old[key], new[key], key):
                raise UserError(
                    f"{kept.directory} holds a supernet of another configuration: {difference}. "
                    "Choose another directory with --out, or take the old value"
                )
    return workspace


def what_matters(config: Config) -> dict[str, Any]:
    """Return a configuration as plain values, without the keys that never change a result."""
    values = config_to_dict(config)
    for section, keys in SPEED_KEYS.items():
        values[section] = {key: v for key, v in values[section].items() if key not in keys}
    return values


def with_absolute_paths(config: Config) -> Config:
    """Return a configuration that means the same files to a worker, which is in another folder."""
    root = os.path.abspath(config.data.root) if config.data.root else ""
    data = dataclasses.replace(config.data, root=root)
    return dataclasses.replace(
        config, data=data, plugins=tuple(map(os.path.abspath, config.plugins))
    )


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """Open the MLflow run of a work directory; configuration, code, machine, command are logged.

    All studies of a supernet are tracked in one store. A directory that has no configuration yet
    keeps this one.
    """
    from experiments.tracking.provenance import code_version, command_tag, machine
    from experiments.tracking.store import local_uri
    from experiments.tracking.tracker import Tracker

    if not workspace.config.exists():
        workspace.keep(config)
    params = config_to_dict(config)
    params.pop("space")  # its file is an artifact; hundreds of parameters would bury the others
    named = workspace.root != workspace.directory
    tracker = Tracker(
        workspace.directory,
        uri=config.tracking.uri or (local_uri(workspace.root) if named else None),
        experiment=config.tracking.experiment,
        run_name=workspace.study_name(config.name),
        tags={**code_version(), **machine(), **command_tag()},
        params=params,
    )
    tracker.text("config.yaml", redact(workspace.config.read_text(encoding="utf-8")))
    return tracker
