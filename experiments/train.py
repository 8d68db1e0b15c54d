"""Train the supernet of a configuration."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from configs import Config, UserError
from configs.differences import first_difference
from evaluators.accuracy import inherited_accuracy, too_few_images
from experiments.classification import supernet_trainer
from experiments.console import console, step_progress
from experiments.data.splits import Splits, describe, load_splits
from experiments.devices import hold_in_step, resolve_device
from experiments.training_history import TrainingHistory
from experiments.workspace import SUPERNET_KEYS, Workspace, what_matters
from search_space import SearchSpace
from supernet import Supernet, Trainer, fit, load_weights, save_weights, seed_everything
from supernet.checkpoint import read_metadata
from supernet.distributed import is_main_process, join_distributed_run

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

SETTINGS = "evolute.settings"  # in the head of the weights' file
PROBES = 3  # architectures whose accuracy is followed during training
PROBED = 5  # times during training


def train_supernet(
    config: Config, workspace: Workspace, tracker: Tracker | None = None
) -> Supernet:
    """Train from the last checkpoint, or from the beginning, to the end of the recipe.

    Writes ``supernet/checkpoint.pt`` every epoch and ``supernet/weights.safetensors`` at the end;
    a supernet that is trained already is only loaded. Under ``torchrun`` all processes train one
    supernet; only the first writes and tracks.

    Raises:
        UserError: The data or a checkpoint is unusable.
        KeyboardInterrupt: Asked to stop; the same call continues.
    """
    return prepare_training(config, workspace).run(tracker)


def prepare_training(config: Config, workspace: Workspace) -> PreparedTraining:
    """Return a training that nothing was found to stand in the way of; no result is written.

    Raises:
        UserError: The data is unusable, or the recipe is not possible.
    """
    if workspace.weights.exists():
        _refuse_other_weights(config, workspace)
        return PreparedTraining(config, workspace, None)
    rank, world_size = join_distributed_run()
    device = resolve_device(config.device)
    with hold_in_step(device):
        supernet = new_supernet(config).to(device)
        supernet_trainer(supernet, config.train, 1, config.seed)  # before statistics are kept
        splits = load_splits(
            config,
            device,
            rank=rank,
            world_size=world_size,
            statistics=workspace.statistics,
            split=workspace.split,
        )
    trainer = supernet_trainer(supernet, config.train, splits.train.steps_per_epoch, config.seed)
    return PreparedTraining(config, workspace, (splits, trainer))


@dataclass(frozen=True)
class PreparedTraining:
    """A training that may begin or go on; see `prepare_training`.

    Attributes:
        parts: Images, and the trainer of the supernet; None of a supernet that is trained already.
    """

    config: Config
    workspace: Workspace
    parts: tuple[Splits, Trainer] | None

    def run(self, tracker: Tracker | None = None) -> Supernet:
        """Train to the end of the recipe; see `train_supernet`."""
        config, workspace = self.config, self.workspace
        if self.parts is None:
            return load_supernet(config, workspace)
        splits, trainer = self.parts
        trained = cast(Supernet, trainer.shipped())
        hold = partial(hold_in_step, trainer.device)
        if not is_main_process():
            fit(trainer, splits.train, workspace.checkpoint, during=hold)
            return trained.eval()
        workspace.keep(config)
        console.print(f"Data: {describe(splits, config)}", highlight=False)
        if warning := too_few_images(splits.halves[0].images):
            console.print(warning, style="yellow", highlight=False)
        run = tracker.child("supernet", "supernet") if tracker else None
        history = TrainingHistory(workspace.history)
        probe_every = max(config.train.epochs // PROBED, 1)
        begun = time.monotonic()

        def on_epoch(epoch: int, loss: float) -> None:
            nonlocal begun
            values = {"loss": loss, "seconds": time.monotonic() - begun}
            if epoch % probe_every == 0 or epoch == config.train.epochs:
                values["accuracy"] = float(np.mean(_probe(trained, splits, config.seed)))
            history.add(epoch, values)
            if run is not None:
                run.metrics(values, step=epoch)
            begun = time.monotonic()

        def on_rollback(what: str) -> None:
            console.print(f"{what}.", style="yellow", highlight=False)
            if run is not None:
                run.tags({f"rollback.{trainer.rollbacks}": what})

        bar = step_progress("Supernet", trainer.total_steps)
        with history.shown_when_stopped(), bar as advance:
            fit(
                trainer,
                splits.train,
                workspace.checkpoint,
                lambda step, loss: advance(step, f"loss {loss:.3f}"),
                on_epoch,
                hold,
                on_rollback,
            )
        save_weights(workspace.weights, trained, {SETTINGS: json.dumps(_settings(config))})
        if run is not None:
            run.artifact(history.plot())
            run.finish()
        return trained.eval()


def _settings(config: Config) -> dict[str, Any]:
    """Return what the weights of a supernet depend on."""
    values = what_matters(config)
    return {key: values[key] for key in SUPERNET_KEYS}


def _refuse_other_weights(config: Config, workspace: Workspace) -> None:
    """Refuse weights that were trained by other settings, whatever lies beside them.

    Raises:
        UserError: They were; the message names what differs.
    """
    stored = read_metadata(workspace.weights).get(SETTINGS)
    if stored is None:
        return
    wanted = json.loads(json.dumps(_settings(config)))
    if difference := first_difference(json.loads(stored), wanted):
        raise UserError(
            f"{workspace.weights} was trained by other settings: {difference}. Choose another "
            "directory with --out, take the old value, or remove the folder of the weights"
        )


def new_supernet(config: Config) -> Supernet:
    """Return a freshly initialised supernet; the seed alone decides its weights."""
    seed_everything(config.seed, 0)
    return Supernet(SearchSpace(config.space, config.plugins))


def load_supernet(config: Config, workspace: Workspace) -> Supernet:
    """Return the trained supernet of a work directory, in eval mode on the configuration's device.

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
    """Return accuracies of a few fixed architectures: the curve then says something about all."""
    rng = np.random.default_rng((seed, 4))
    architectures = [supernet.space.sample(rng) for _ in range(PROBES)]
    return [
        inherited_accuracy(supernet, architecture, splits.calibration, splits.validation)
        for architecture in architectures
    ]
