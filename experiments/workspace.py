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
from configs.atomic import remove_abandoned, write_atomically
from configs.differences import first_difference
from configs.schema import Tracking
from configs.secrets import has_secret, hide_storage, without_secrets
from configs.sqlite import sqlite_url
from experiments.places import RUNS, STUDIES, root_of

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

SUPERNET_KEYS = ("seed", "space", "data", "train")  # fixed once a supernet is being trained
SPEED_KEYS = {  # by section; they never change a result
    "data": ("loading_workers", "memory_limit_mb"),
    "evaluate": ("cache_mb",),
}


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
        return root_of(self.directory)

    def study_name(self, name: str) -> str:
        """Return the study's name in the database, for that of a configuration."""
        named = self.root != self.directory
        return f"{name}/{self.directory.name}" if named else name

    def keep(self, config: Config) -> None:
        """Write the configuration that the results to come belong to, without its secrets."""
        values = without_secrets(config_to_dict(config))
        write_atomically(self.config, yaml.safe_dump(values, sort_keys=False), file_mode(config))

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def statistics(self) -> Path:
        return self.root / "statistics.json"

    @property
    def split(self) -> Path:
        return self.root / "split.json"

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
    def journal(self) -> Path:
        return self.directory / "tracking.jsonl"

    @property
    def report(self) -> Path:
        return self.directory / "report"

    @property
    def summary(self) -> Path:
        return self.report / "summary.txt"

    @property
    def finished(self) -> Path:
        return self.directory / "finished.json"

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
    workspace = Workspace(out or Path(RUNS) / config.name)
    if study:
        workspace = workspace.named(study)
    sqlite_url(workspace.study)  # refuses what no database can be in
    kept = Workspace(workspace.root)
    if kept.config.exists() and (kept.checkpoint.exists() or kept.weights.exists()):
        old, new = what_matters(_kept_config(kept)), what_matters(config)
        for key in SUPERNET_KEYS:
            if difference := first_difference(old[key], new[key], key):
                raise UserError(
                    f"{kept.directory} holds a supernet of another configuration: {difference}. "
                    "Choose another directory with --out, or take the old value"
                )
    return workspace


def _kept_config(workspace: Workspace) -> Config:
    try:
        return load_config(workspace.config)
    except UserError as error:
        copies = sorted(workspace.directory.glob("tracking.files/*/config.yaml"))
        way_out = f"copy {copies[0]} over it" if copies else "move it away"
        raise UserError(
            f"{workspace.config} is damaged; {way_out}, and give the same command again ({error})"
        ) from None


def file_mode(config: Config) -> int | None:
    """Return who may read what is kept of a configuration: the owner where a secret was given."""
    storage = config.search.storage
    secret = has_secret(config.tracking.uri) or hide_storage(storage) != storage
    return 0o600 if secret else None


def what_matters(config: Config) -> dict[str, Any]:
    """Return a configuration as plain values, without the keys that never change a result."""
    values = config_to_dict(config)
    for section, keys in SPEED_KEYS.items():
        values[section] = {key: v for key, v in values[section].items() if key not in keys}
    return values


def with_absolute_paths(config: Config) -> Config:
    """Return a configuration that means the same files to a worker, which is in another folder.

    Where the driver keeps and tracks what comes back, with which password, is not among it.
    """
    root = os.path.abspath(config.data.root) if config.data.root else ""
    data = dataclasses.replace(config.data, root=root)
    return dataclasses.replace(
        config,
        data=data,
        plugins=tuple(map(os.path.abspath, config.plugins)),
        search=dataclasses.replace(config.search, storage=""),
        tracking=Tracking(),
    )


def _what_is_searched(config: Config) -> dict[str, Any]:
    """Return what tells one search from another in a table of runs."""
    search = config.search
    return {"data": config.data.name, "trials": search.trials, "sampler": search.sampler,
            "objectives": " ".join(search.objectives), "device": config.device}  # fmt: skip


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """Open the MLflow run of a work directory; configuration, code, machine, command are logged.

    A directory that has no configuration yet
    keeps this one.
    """
    from experiments.console import note
    from experiments.log_file import begin_log
    from experiments.tracking.provenance import code_version, command_line, command_tag, machine
    from experiments.tracking.tracker import Tracker

    remove_abandoned(workspace.directory)
    if not workspace.config.exists():
        workspace.keep(config)
    begin_log(workspace.directory, file_mode(config))
    note(command_line())
    tracker = Tracker(
        workspace.directory,
        uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        run_name=workspace.study_name(config.name),
        tags={**code_version(), **machine(), **command_tag(), **_what_is_searched(config)},
        params={"seed": config.seed},  # the whole configuration is an artifact
    )
    tracker.text("config.yaml", workspace.config.read_text(encoding="utf-8"), file_mode(config))
    return tracker
