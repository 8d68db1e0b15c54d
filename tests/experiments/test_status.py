"""What `evolute status` says of a work directory, from its beginning to its end."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from spaces import small_config

from configs import UserError
from experiments.ownership import owned
from experiments.retrain import retrain_architecture
from experiments.search import search_architectures
from experiments.status import status_table
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_tracker


def said(directory: Path) -> dict[str, str]:
    """What stands beside each word; lines of a cell are joined."""
    output = Console(file=io.StringIO(), width=200)
    output.print(status_table(directory))
    cells: dict[str, str] = {}
    for line in output.file.getvalue().splitlines():
        if found := re.match(r" {2}(\S+) +(\S.*)", line):
            cells[found[1]] = found[2].strip()
        elif line.strip() and cells:
            cells[next(reversed(cells))] += f"; {line.strip()}"
    return cells


def test_each_step_of_the_way(tmp_path) -> None:
    config = small_config(
        data={"name": "digits", "limit": 200},
        train={"epochs": 2, "batch_size": 64},
        evaluate={"calibration_images": 64},
        search={"workers": 0, "trials": 6, "profile_samples": 1, "verify": False},
        retrain={"epochs": 1, "batch_size": 64},
        latency={"max_spread": 10, "repeats": 6},
    )
    workspace = Workspace(tmp_path / "small")
    with pytest.raises(UserError, match="no work directory"):
        status_table(workspace.directory)
    workspace.keep(config)
    first = said(workspace.directory)
    assert first["supernet"] == "not begun" and first["search"] == "0 of 6 trials"
    assert first["next"].startswith("evolute train ") and first["running"] == "nothing"
    assert first["MLflow"] == "nothing was tracked"

    train_supernet(config, workspace)
    second = said(workspace.directory)
    assert second["supernet"].startswith("trained, ")
    assert second["next"].startswith("evolute search ")

    with open_tracker(config, workspace) as tracker:
        result = search_architectures(config, workspace, tracker)
        assert tracker.flush()
        pending = said(workspace.directory)["MLflow"]
    assert re.fullmatch(r"all \d+ events are uploaded", pending)
    third = said(workspace.directory)
    assert third["search"].startswith("6 of 6 trials (")
    assert third["front"].startswith(f"{len(result.front)} networks, ")
    assert third["next"] == f"evolute retrain --search {workspace.directory} --pick best"

    retrain_architecture(config, workspace, result.front[0].architecture, "best")
    assert "% test at" in said(workspace.directory)["retrained"]
    with owned(workspace):
        assert said(workspace.directory)["running"] == "nothing"  # of other processes
    journal = workspace.directory / "tracking.state.json"
    journal.unlink()
    assert "evolute sync" in said(workspace.directory)["MLflow"]
