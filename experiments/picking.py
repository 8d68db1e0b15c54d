"""Finds the architecture that `evolute retrain` is asked for, and trains it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

from configs import Config, UserError, load_config
from experiments.console import busy, console
from experiments.reporting.report import pick
from experiments.retrain import retrain_architecture
from experiments.run import comparison
from experiments.workspace import Workspace, open_tracker, open_workspace
from search import TrialRecord
from search_space import Architecture, named_architecture


def retrain_from_files(
    config: str | None,
    search: str | None,
    pick_what: str,
    architecture: str | None,
    seeds: int | None,
    overrides: list[str],
    out: Path | None,
) -> None:
    """Retrains a member of a search's front, the architecture of a file, or a hand-made network.

    Raises:
        UserError: Neither or both are given, or what is named doesn't exist.
    """
    if (search is None) == (architecture is None):
        raise UserError("give either --search RUN or --architecture FILE")
    if seeds is not None:
        overrides = [*overrides, f"retrain.seeds={seeds}"]
    if search is not None:
        directory = find_search(search)
        settings = load_config(config or Workspace(directory).config, overrides)
        record = pick(read_front(Workspace(directory).report), pick_what)
        choices = record.architecture
        name = f"front-{pick_what}" if pick_what.isdigit() else pick_what
        out = out or directory
    else:
        assert architecture is not None
        if config is None:
            raise UserError("--architecture needs a CONFIG too: it says the data and the recipe")
        settings, choices = _with_space_of(load_config(config, overrides), architecture)
        file = Path(architecture)
        # an architecture.yaml is better known by its folder
        name = (file.resolve().parent if file.stem == "architecture" else file).stem
        out = out or Path("runs") / f"{settings.name}-{name}"
    # The configuration of a search stays what it was; the recipe is kept beside the network.
    known = Workspace(out).config.exists()
    workspace = Workspace(out) if known else open_workspace(settings, out)
    with open_tracker(settings, workspace) as tracker:
        retrained = retrain_architecture(settings, workspace, choices, name, tracker)
    console.print(comparison([retrained]))
    console.print(f"Ready to ship: {retrained.folder}", soft_wrap=True, highlight=False)


def find_search(run: str) -> Path:
    """The work directory of a search, given as that directory or as an MLflow run id.

    A run id is looked for in the work directories below ``runs/``, then in the store that
    MLFLOW_TRACKING_URI names, from which configuration and front are downloaded.
    """
    directory = Path(run)
    if directory.is_dir():
        return directory
    for candidate in sorted(Path("runs").glob("*/tracking.jsonl")):
        if _knows(candidate.parent, run):
            return candidate.parent
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return _download(run)
    raise UserError(
        f"--search: {run!r} is neither a work directory nor a run below runs/; to fetch it from a "
        "tracking server set MLFLOW_TRACKING_URI"
    )


def read_front(report: Path) -> list[TrialRecord]:
    """The front that a search reported, from its ``front.csv``.

    Raises:
        UserError: There is no report.
    """
    path = report / "front.csv"
    if not path.exists():
        raise UserError(f"{path}: no front there; run `evolute search` first")
    fixed = ("index", "number", "state", "seconds", "architecture", "message")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            TrialRecord(
                number=int(row["number"]),
                architecture=tuple(row["architecture"].split()),
                metrics={k: float(v) for k, v in row.items() if k not in fixed and v},
                state="complete",
            )
            for row in csv.DictReader(file)
        ]


def _knows(directory: Path, run: str) -> bool:
    """Whether an MLflow run id belongs to the search of a work directory."""
    state = directory / "tracking.state.json"
    if not state.exists():
        return False
    stores = json.loads(state.read_text(encoding="utf-8"))
    return run in {store.get("run_id") for store in stores.values()}


def _download(run: str) -> Path:
    import mlflow

    directory = Path("runs") / run
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with busy(f"Downloading run {run} ..."):
            for item in ("config.yaml", "report"):
                mlflow.artifacts.download_artifacts(
                    run_id=run, artifact_path=item, dst_path=str(directory)
                )
    except Exception as error:  # MLflow raises what the store behind the URI raises
        raise UserError(f"--search: run {run!r} can't be fetched from MLflow: {error}") from None
    return directory


def _with_space_of(config: Config, name: str) -> tuple[Config, Architecture]:
    """The configuration with the space of an architecture but its own images, and the choices."""
    space, choices = named_architecture(name)
    data = {key: getattr(config.space, key) for key in ("num_classes", "in_channels", "input_size")}
    changed = dataclasses.replace(space.config, **data)
    return dataclasses.replace(config, space=changed, plugins=space.plugins), choices
