"""The work directory of a run: which file lies where, and what may not change in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from configs import Config, UserError, config_to_dict, load_config
from configs.atomic import write_atomically
from configs.differences import first_difference
from experiments.tracking.journal import redact

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

SUPERNET_KEYS = ("seed", "space", "data", "train")  # fixed once a supernet is being trained
STUDY_KEYS = ("evaluate",)  # likewise once a study has begun; its fingerprint guards `latency`


@dataclass(frozen=True)
class Workspace:
    """Everything a run writes lies below `directory`."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def statistics(self) -> Path:
        return self.directory / "statistics.json"

    @property
    def checkpoint(self) -> Path:
        return self.directory / "supernet" / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.directory / "supernet" / "weights.safetensors"

    @property
    def history(self) -> Path:
        return self.directory / "supernet" / "history.json"

    @property
    def study(self) -> Path:
        return self.directory / "study.db"

    @property
    def fingerprint(self) -> Path:
        return self.directory / "fingerprint.json"

    @property
    def report(self) -> Path:
        return self.directory / "report"

    @property
    def retrained(self) -> Path:
        return self.directory / "retrained"


def open_workspace(config: Config, out: Path | None = None) -> Workspace:
    """Create or continue a work directory; the default is ``runs/NAME``.

    Raises:
        UserError: The directory holds results of a configuration that differs where it may not.
    """
    workspace = Workspace(out or Path("runs") / config.name)
    new = config_to_dict(config)
    if workspace.config.exists():
        old = config_to_dict(load_config(workspace.config))
        fixed = [*SUPERNET_KEYS] if workspace.checkpoint.exists() else []
        fixed += STUDY_KEYS if workspace.study.exists() else ()
        for key in fixed:
            difference = first_difference(old[key], new[key], key)
            if difference:
                raise UserError(
                    f"{workspace.directory} holds results of another configuration: {difference}. "
                    "Choose another directory with --out, or take the old value"
                )
    write_atomically(workspace.config, yaml.safe_dump(new, sort_keys=False))
    return workspace


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """Open the MLflow run of a work directory: configuration, seed and code version are logged."""
    from experiments.tracking.tracker import Tracker, code_version

    params = config_to_dict(config)
    params.pop("space")  # its file is an artifact; hundreds of parameters would bury the others
    tracker = Tracker(
        workspace.directory,
        uri=config.tracking.uri or None,
        experiment=config.tracking.experiment,
        run_name=config.name,
        tags=code_version(),
        params=params,
    )
    tracker.text("config.yaml", redact(workspace.config.read_text(encoding="utf-8")))
    return tracker
