"""Trains the supernet of a configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from configs import Config, UserError
from configs.atomic import write_atomically
from evaluators.accuracy import inherited_accuracy
from experiments.console import console, step_progress
from experiments.data.splits import Splits, describe, load_splits
from experiments.devices import join_distributed_run, resolve_device
from experiments.workspace import Workspace
from search_space import SearchSpace
from supernet import Supernet, Trainer, fit
from supernet.checkpoint import load_weights, save_weights
from supernet.training import is_main_process, seed_everything

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

PROBES = 3  # architectures whose accuracy is followed during training
PROBED = 5  # times during training


def train_supernet(config: Config, workspace: Workspace, tracker: Tracker | None) -> Supernet:
    """Trains from the last checkpoint, or from the beginning, to the end of the recipe.

    Writes ``supernet/checkpoint.pt`` every epoch and ``supernet/weights.safetensors`` at the end;
    a supernet that is trained already is only loaded. Under ``torchrun`` all processes train one
    supernet; only the first writes and tracks.

    Raises:
        UserError: The data or a checkpoint is unusable.
        KeyboardInterrupt: Asked to stop; the same call continues.
    """
    if workspace.weights.exists():
        return load_supernet(config, workspace)
    rank, world_size = join_distributed_run()
    device = resolve_device(config.device)
    splits = load_splits(config, device, rank=rank, world_size=world_size)
    supernet = new_supernet(config).to(device)
    trainer = Trainer(supernet, config.train, splits.train.steps_per_epoch, config.seed)
    if is_main_process():
        console.print(f"Data: {describe(splits, config)}", highlight=False)
    child = tracker.child("supernet", "supernet") if tracker and is_main_process() else None
    history = _read_history(workspace)

    with step_progress("Supernet", trainer.total_steps) as advance:

        def on_epoch(epoch: int, loss: float) -> None:
            if not is_main_process():
                return
            values: dict[str, Any] = {"epoch": epoch, "loss": loss}
            every = max(config.train.epochs // PROBED, 1)
            if epoch % every == 0 or epoch == config.train.epochs:
                values["accuracy"] = float(np.mean(_probe(supernet, splits, config.seed)))
            history[:] = [entry for entry in history if entry["epoch"] < epoch] + [values]
            write_atomically(workspace.history, json.dumps(history))
            if child is not None:
                child.metrics({k: v for k, v in values.items() if k != "epoch"}, step=epoch)

        def on_step(step: int, loss: float) -> None:
            if is_main_process():
                advance(step, f"loss {loss:.3f}")

        fit(trainer, splits.train, workspace.checkpoint, on_step, on_epoch)
    if is_main_process():
        save_weights(workspace.weights, supernet)
        if child is not None:
            from experiments.reporting.plots import plot_curves

            curves = workspace.history.with_name("curves.png")
            plot_curves(history, curves)
            child.artifact(curves)
            child.finish()
    return supernet.eval()


def new_supernet(config: Config) -> Supernet:
    """A freshly initialised supernet; the seed alone decides its weights."""
    seed_everything(config.seed, 0)
    return Supernet(SearchSpace(config.space, config.plugins))


def load_supernet(config: Config, workspace: Workspace) -> Supernet:
    """The trained supernet of a work directory, in eval mode on the configuration's device.

    Raises:
        UserError: It isn't there yet, or the file is damaged.
    """
    if not workspace.weights.exists():
        raise UserError(
            f"{workspace.weights}: there is no trained supernet; run `evolute train` first"
        )
    supernet = new_supernet(config)
    load_weights(workspace.weights, supernet)
    supernet.to(resolve_device(config.device))
    if config.train.channels_last:
        supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return supernet.eval()


def _probe(supernet: Supernet, splits: Splits, seed: int) -> list[float]:
    """Accuracy of a few fixed architectures, so that the curve says something about all."""
    rng = np.random.default_rng((seed, 4))
    architectures = [supernet.space.sample(rng) for _ in range(PROBES)]
    return [
        inherited_accuracy(supernet, architecture, splits.calibration, splits.validation)
        for architecture in architectures
    ]


def _read_history(workspace: Workspace) -> list[dict[str, Any]]:
    if not workspace.history.exists() or not workspace.checkpoint.exists():
        return []
    return json.loads(workspace.history.read_text(encoding="utf-8"))
