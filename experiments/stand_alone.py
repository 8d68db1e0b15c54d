"""Trains architectures on their own, each to the end of a recipe, on the workers of a search.

What a training needs is in its folder, so that it goes on after an interruption, and what is
finished is read from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from configs import Config, UserError, config_to_dict
from configs.atomic import write_atomically
from configs.kept import numbers, read_or_none
from evaluators.accuracy import read_all, read_by_batch
from evaluators.threads import torch_threads
from experiments.classification import network_trainer
from experiments.data.batches import TrainingBatches
from experiments.data.preprocessing import are_stored
from experiments.data.splits import Splits, load_splits
from experiments.devices import gpus_per_worker, hold_in_step, resolve_device, worker_threads
from experiments.train import load_supernet
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace, what_matters, with_absolute_paths
from search.executors.evaluation import Outcome, Task
from search_space import Architecture, SearchSpace, build_network, save_architecture
from search_space.architecture import WEIGHTS
from search_space.network import Network
from supernet import fit, load_weights, save_weights, seed_everything

Start = Literal["fresh", "inherited"]
METRICS_FILE, CHECKPOINT = "metrics.json", "checkpoint.pt"


def train_alone(
    network: nn.Module,
    config: Config,
    train: TrainingBatches,
    seed: int,
    folder: Path,
    *,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a network by the `retrain` recipe and return what is shipped of it, in eval mode.

    A training that was interrupted goes on from ``checkpoint.pt`` in its folder.

    Args:
        network: On its device, with the weights to start from.
        train: Training images; their order and augmentation are those of the seed.
        on_epoch: Called with the epochs done, the mean loss, and the network as it is shipped.

    Raises:
        UserError: The recipe is not possible, or the loss is no longer finite.
        KeyboardInterrupt: Asked to stop; the same call goes on.
    """
    trainer = network_trainer(network, config.retrain, train.steps_per_epoch, seed)

    def epoch_done(epoch: int, loss: float) -> None:
        if on_epoch is not None:
            on_epoch(epoch, loss, trainer.shipped())

    fit(
        trainer,
        dataclasses.replace(train, seed=seed),  # in an order of its own, augmented anew
        folder / CHECKPOINT,
        on_step,
        epoch_done,
        partial(hold_in_step, trainer.device),
    )
    return trainer.shipped().eval()


def finished_metrics(folder: Path) -> dict[str, float] | None:
    """Return the metrics of a training that is done; None where it isn't, or they are damaged."""
    return read_or_none(folder / METRICS_FILE, numbers, "the trained network is read again")


def _trained_already(network: nn.Module, config: Config, folder: Path) -> nn.Module | None:
    """Return a network with its trained weights, where these outlived its metrics; else None."""
    if (folder / CHECKPOINT).exists() or not (folder / WEIGHTS).exists():
        return None  # the checkpoint is removed as the last
    try:
        load_weights(folder / WEIGHTS, network)
    except UserError:  # damaged as well
        return None
    if config.retrain.channels_last:  # read to the same bit
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


class StandAlone:
    """What a worker does with an architecture: it is trained on its own, and read.

    Sent to a worker it is a configuration and a directory; images are loaded there on the first
    call and stay. Of each architecture ``FOLDER/KEY/`` keeps ``architecture.yaml``,
    ``weights.safetensors``, ``history.json`` and, once it is finished, ``metrics.json``, from which
    a later call reads its answer. The test split is never loaded.

    Args:
        config: Its `retrain` section is the recipe.
        folder: Of all that are trained alike, see `conditions`.
        seed: Of initial weights and of the order of the images.
        start: Train from `fresh` weights, from those `inherited` from the supernet, or from those
            of an earlier training, given by its folder.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        folder: Path,
        *,
        seed: int = 0,
        start: Start | Path = "fresh",
    ) -> None:
        recipe = dataclasses.replace(config.retrain, inherit=start != "fresh")
        self.config = dataclasses.replace(with_absolute_paths(config), retrain=recipe)
        self.workspace = Workspace(workspace.directory.absolute())
        self.folder = folder.absolute()
        self.seed = seed
        self.start = start.absolute() if isinstance(start, Path) else start
        self._splits: Splits | None = None

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return what was read of the halves of the validation images, and the seconds it took.

        ``accuracy`` and ``cross_entropy`` are of the second half, by which a search has selected
        nothing; ``selection_accuracy`` and ``selection_cross_entropy`` are of the first.
        ``accuracy_images`` and ``selection_accuracy_images`` say how many images these have, and
        ``cross_entropy_deviation`` how much that of single images varies.

        Raises:
            UserError: The weights to start from are missing, or the training fails.
        """
        folder = self.folder_of(architecture)
        if (finished := finished_metrics(folder)) is not None:
            return finished
        with torch_threads(worker_threads(self.config)):
            return self._train(architecture, folder)

    def folder_of(self, architecture: Architecture) -> Path:
        """Return the folder of an architecture's training."""
        return self.folder / hashlib.sha256("/".join(architecture).encode()).hexdigest()[:12]

    def finished(self, architecture: Architecture) -> bool:
        """Return whether the training of an architecture is done."""
        return finished_metrics(self.folder_of(architecture)) is not None

    def _train(self, architecture: Architecture, folder: Path) -> dict[str, float]:
        started, device = time.monotonic(), resolve_device(self.config.device)
        splits, history = self.splits, TrainingHistory(folder / "history.json")
        with hold_in_step(device):
            network = self._network(architecture).to(device)
        save_architecture(folder / "architecture.yaml", self.space, architecture)
        shipped = _trained_already(network, self.config, folder) or train_alone(
            network,
            self.config,
            splits.train,
            self.seed,
            folder,
            on_epoch=lambda epoch, loss, _: history.add(epoch, {"loss": loss}),
        )
        selected, unseen = splits.halves
        reading, chosen = (read_all(read_by_batch(shipped, b)) for b in (unseen, selected))
        metrics: dict[str, float] = {
            "accuracy": reading.accuracy,
            "accuracy_images": reading.images,
            "cross_entropy": reading.cross_entropy,
            "cross_entropy_deviation": reading.deviation,
            "selection_accuracy": chosen.accuracy,
            "selection_accuracy_images": chosen.images,
            "selection_cross_entropy": chosen.cross_entropy,
            "seconds": time.monotonic() - started,
        }
        save_weights(folder / WEIGHTS, shipped)
        write_atomically(folder / METRICS_FILE, json.dumps(metrics, indent=1))
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return metrics

    def _network(self, architecture: Architecture) -> Network:
        if self.start == "inherited":
            return load_supernet(self.config, self.workspace).extract(architecture)
        seed_everything(self.seed, 0)
        network = build_network(self.space, architecture)
        if isinstance(self.start, Path):
            load_weights(self.start / self.folder_of(architecture).name / WEIGHTS, network)
        return network

    @property
    def space(self) -> SearchSpace:
        """The space of the configuration."""
        return SearchSpace(self.config.space, self.config.plugins)

    @property
    def splits(self) -> Splits:
        """Training and validation images, loaded on first use."""
        if self._splits is None:
            self._splits = load_splits(
                self.config,
                resolve_device(self.config.device),
                batch_size=self.config.retrain.batch_size,
                statistics=self.workspace.statistics,
                split=self.workspace.split,
            )
        return self._splits

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_splits": None}


class Training(Protocol):
    """What a worker does with an architecture, or with whatever a tuple of names stands for."""

    config: Config

    def __call__(self, key: tuple[str, ...], /) -> dict[str, float]:
        """Train it, or read what came of it."""

    def finished(self, key: tuple[str, ...], /) -> bool:
        """Return whether it is trained already."""


def train_all(
    training: Training,
    architectures: Sequence[Architecture],
    on_done: Callable[[Architecture, Mapping[str, float]], None] = lambda *_: None,
    on_failed: Callable[[Architecture, UserError], None] | None = None,
) -> dict[Architecture, dict[str, float]]:
    """Train architectures on the workers of the configuration's search, several at a time.

    What is finished already is read from its folder.

    Args:
        on_done: Called in this process with each architecture and its metrics.
        on_failed: Likewise with each whose training fails; the others go on.

    Returns:
        The metrics of each, in the order given; without those that failed.

    Raises:
        UserError: A training fails, and there is no `on_failed`; the message names it.
        KeyboardInterrupt: Asked to stop; the same call goes on.
    """
    found: dict[Architecture, dict[str, float]] = {}

    def done(architecture: Architecture, metrics: Mapping[str, float]) -> None:
        found[architecture] = dict(metrics)
        on_done(architecture, metrics)

    def finish(architecture: Architecture, outcome: Outcome) -> None:
        if outcome.error:
            error = UserError(f"training {'/'.join(architecture)} alone fails: {outcome.error}")
            if on_failed is None:
                raise error
            on_failed(architecture, error)
            return
        done(architecture, {name: float(v or 0) for name, v in outcome.metrics.items()})

    for architecture in filter(training.finished, architectures):
        done(architecture, training(architecture))
    missing = iter([each for each in architectures if each not in found])
    left = len(architectures) - len(found)

    def propose() -> Task | None:
        architecture = next(missing, None)
        return None if architecture is None else Task(architecture)

    search = training.config.search
    if left and search.workers == 0:
        from search.executors.local import run_here

        run_here(training, propose, finish)
    elif left:
        from search.executors.ray import run_on_ray

        run_on_ray(
            training,
            propose,
            finish,
            workers=search.workers,
            address=search.address or None,
            cpus_per_worker=search.cpus_per_worker,
            gpus_per_worker=gpus_per_worker(training.config),
        )
    return {each: found[each] for each in architectures if each in found}


@contextlib.contextmanager
def same_workers(config: Config) -> Iterator[None]:
    """Keep Ray running between several calls of `train_all`: starting it takes many seconds."""
    search = config.search
    if search.workers == 0:
        yield
        return
    from search.executors.ray_session import ray_session

    with ray_session(
        search.address or None, search.workers, search.cpus_per_worker, gpus_per_worker(config)
    ):
        yield


def conditions(config: Config, workspace: Workspace, **more: Any) -> str:
    """Hash what decides the result of a training: recipe, images, space, plugins, and `more`.

    Trainings of equal conditions may be compared and share a folder.

    Args:
        more: Plain values, such as a seed, or the weights a training starts from.
    """
    plugins = [Path(plugin).read_text(encoding="utf-8") for plugin in config.plugins]
    recipe = {**config_to_dict(config.retrain), "seeds": None}
    data, statistics = what_matters(config)["data"], workspace.statistics
    if statistics.exists() and not are_stored(statistics):
        load_splits(config, "cpu", statistics=statistics)  # writes the same again
    kept = statistics.read_text(encoding="utf-8") if statistics.exists() else ""
    parts = [recipe, data, kept, config_to_dict(config.space), plugins, more]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
