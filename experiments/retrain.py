"""Trains a chosen architecture, tests it once, exports and registers it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs import Config, UserError
from experiments.baselines import retrain_beside
from experiments.blueprints import InSpace
from experiments.console import console, step_progress
from experiments.ownership import owned
from experiments.reporting.front import pick, read_front
from experiments.reporting.tables import Fitting, comparison
from experiments.retrained import Retrained, better_plain, comparable, verdict
from experiments.retraining import (
    Setup,
    Task,
    begin_run,
    new_task,
    prepare_setup,
    seed_folder,
    track_epoch,
    track_result,
    train_seed,
)
from experiments.settings import load_config
from experiments.shipping import finish_retraining, register, write_task
from experiments.stand_alone import finished_metrics
from experiments.tracking.runs import find_search
from experiments.workspace import Workspace, open_tracker, open_workspace
from search_space import Architecture, named_architecture

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


def retrain_architecture(
    config: Config,
    workspace: Workspace,
    architecture: Architecture,
    name: str,
    tracker: Tracker | None = None,
    baseline: str = "",
) -> Retrained:
    """Train with the `retrain` recipe, once per seed, and make the best seed ready to ship.

    Writes ``retrained/NAME-HASH/``: ``architecture.yaml``, ``weights.safetensors``,
    ``metrics.json``, ``model.onnx`` for the batch of ``latency.batch``, ``model-dynamic.onnx`` for
    any, ``curves.png``, the configuration, and a folder with checkpoint and metrics for each seed.
    The hash is that of all that changes a result, so that other settings never find these results
    in their way: architecture, space, plugins, recipe, first seed, data, latency settings, kind of
    device, and the supernet's weights where they are inherited. Seeds that are finished aren't
    trained again. The test split is used once per seed, after training; the seed to ship is chosen
    on the search-validation split.

    Args:
        baseline: Which kind of baseline it is; empty for what was chosen.

    Raises:
        UserError: The architecture is not in the space, the data can't be read, the runtime of
            ``latency`` can't be had, or the supernet to inherit from is another or none.
    """
    setup, task = prepare_retraining(config, workspace, architecture, name, baseline)
    return run_retraining(setup, task, tracker)


def prepare_retraining(
    config: Config,
    workspace: Workspace,
    architecture: Architecture,
    name: str,
    baseline: str = "",
) -> tuple[Setup, Task]:
    """Return a training that nothing was found to stand in the way of; no result is written.

    Raises:
        UserError: As for `retrain_architecture`.
    """
    space = Setup(config, workspace).space
    space.validate(architecture)
    setup = prepare_setup(config, workspace)
    return setup, new_task(setup, name, InSpace(space, tuple(architecture)), baseline)


def run_retraining(setup: Setup, task: Task, tracker: Tracker | None = None) -> Retrained:
    """Train what `prepare_retraining` prepared; see `retrain_architecture`."""
    write_task(setup, task)
    for seed in setup.seeds:
        if finished_metrics(seed_folder(task, seed)) is None:
            _train_here(setup, task, seed, tracker)
    return finish_retraining(setup, task, tracker)


def _train_here(setup: Setup, task: Task, seed: int, tracker: Tracker | None) -> None:
    """Train a seed in this process, with its progress shown and tracked."""
    run = None if tracker is None else begin_run(setup, task, seed, tracker)

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        if run is not None:
            track_epoch(run, epoch, values)

    steps = setup.config.retrain.epochs * setup.splits.train.steps_per_epoch
    with step_progress(f"{task.folder.name}, seed {seed}", steps) as advance:
        metrics = train_seed(
            setup,
            task,
            seed,
            lambda step, loss: advance(step, f"loss {loss:.3f}"),
            on_epoch,
        )
    if run is not None:
        track_result(run, task, metrics)


def retrain_from_files(
    config: str | None,
    search: str | None,
    pick_what: str,
    architecture: str | None,
    seeds: int | None,
    overrides: list[str],
    out: Path | None,
    baselines: bool = False,
    against: str = "",
    front: bool = False,
    plugins: Sequence[str] = (),
) -> None:
    """Retrain a member of a search's front, the architecture of a file, or a hand-made network.

    Args:
        baselines: Train the plain networks and random ones of its latency beside it.
        against: timm models to train beside it, separated by commas.
        front: Train the other members of the front beside it.
        plugins: Files that the architecture may run besides those in its folder.

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
        members = read_front(Workspace(directory).report)
        record = pick(members, pick_what)
        choices = record.architecture
        name = (
            f"front-{pick_what}" if pick_what.isdigit() else pick_what.strip("%").replace(" ", "-")
        )
        out = out or directory
    else:
        assert architecture is not None
        if front:
            raise UserError("--front needs --search: a file is no member of a front")
        members = []
        if config is None:
            raise UserError("--architecture needs a CONFIG too: it says the data and the recipe")
        settings, choices = _with_space_of(load_config(config, overrides), architecture, plugins)
        file = Path(architecture)
        # an architecture.yaml is better known by its folder
        name = (file.resolve().parent if file.stem == "architecture" else file).stem
        out = out or Path("runs") / f"{settings.name}-{name}"
    # The configuration of a search stays what it was; the recipe is kept beside the network.
    known = Workspace(out).config.exists()
    workspace = Workspace(out) if known else open_workspace(settings, out)
    with owned(workspace):
        if baselines or against or front:
            retrain_beside(
                settings,
                workspace,
                choices,
                name,
                families=baselines,
                against=against,
                front=members if front else (),
            )
            return
        setup, task = prepare_retraining(settings, workspace, choices, name)
        if not known:
            workspace.keep(settings)
        with open_tracker(settings, workspace) as tracker:
            retrained = run_retraining(setup, task, tracker)
            register(settings, retrained, tracker)
    conclude([retrained])


def conclude(networks: list[Retrained]) -> None:
    """Print networks side by side, and whether the first is worth shipping.

    A plain network that was trained beside it by the same recipe, and is better, is shown too.
    """
    first = networks[0]
    better = better_plain(first, comparable(first))
    shown = networks if better is None or better in networks else [*networks, better]
    console.print(Fitting(comparison(shown), comparison(shown, every_form=False)))
    console.print(verdict(first, better), soft_wrap=True, highlight=False, markup=False)


def _with_space_of(
    config: Config, name: str, plugins: Sequence[str]
) -> tuple[Config, Architecture]:
    """Return the configuration with an architecture's space but its own images, and the choices."""
    space, choices = named_architecture(name, [*config.plugins, *plugins])
    data = {key: getattr(config.space, key) for key in ("num_classes", "in_channels", "input_size")}
    changed = dataclasses.replace(space.config, **data)
    return dataclasses.replace(config, space=changed, plugins=space.plugins), choices
