"""Trains one network from one seed by the `retrain` recipe, here or in a worker."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from configs import Config, UserError, config_to_dict
from configs import load_config as read_config
from configs.atomic import write_atomically
from configs.differences import first_difference
from evaluators import count_macs, count_params, deployed
from evaluators.accuracy import measure_accuracy
from evaluators.threads import torch_threads
from experiments.blueprints import Blueprint, all_convolution
from experiments.classification import network_trainer
from experiments.data.splits import Splits, load_splits
from experiments.devices import hold_in_step, resolve_device, worker_threads
from experiments.evaluator import image_shape, latency_fingerprint
from experiments.programs import as_metadata, pretrained_cfg
from experiments.stand_alone import METRICS_FILE, finished_metrics, train_alone
from experiments.train import load_supernet
from experiments.training_history import TrainingHistory
from experiments.workspace import SUPERNET_KEYS, Workspace, what_matters, with_absolute_paths
from search_space import SearchSpace, build_network
from search_space.architecture import WEIGHTS
from supernet import save_weights, seed_everything

if TYPE_CHECKING:
    from experiments.tracking.tracker import Run, Tracker

OnEpoch = Callable[[int, dict[str, float]], None]  # epochs done; loss and validation accuracy


@dataclass(frozen=True)
class Setup:
    """What all networks that are retrained and compared share.

    Sent to a worker it is a configuration and a directory; images are loaded there on the first
    use and stay.
    """

    config: Config
    workspace: Workspace

    @cached_property
    def splits(self) -> Splits:
        """The images, test images included."""
        device = resolve_device(self.config.device)
        with hold_in_step(device):
            return load_splits(
                self.config,
                device,
                batch_size=self.config.retrain.batch_size,
                test=True,
                statistics=self.workspace.statistics,
                split=self.workspace.split,
            )

    @cached_property
    def expected(self) -> dict[str, Any]:
        """What the weights expect of images; see `pretrained_cfg`."""
        return pretrained_cfg(self.splits.preprocessing, self.splits.class_names)

    @cached_property
    def conditions(self) -> str:
        """A hash of what two networks must have in common if their figures are to be compared."""
        config, inherited = self.config, None
        if config.retrain.inherit:
            load_supernet(config, self.workspace)  # says so where it is missing or damaged
            inherited = hashlib.sha256(self.workspace.weights.read_bytes()).hexdigest()
        return _hash(
            {**config_to_dict(config.retrain), "seeds": None},  # more seeds: the same folder
            what_matters(config)["data"],
            [self.expected, self.splits.sizes],  # other images of an old name have another mean
            {k: v for k, v in config_to_dict(config.latency).items() if v != ""},
            resolve_device(config.device).type,
            inherited,
        )

    @property
    def space(self) -> SearchSpace:
        """The space of the configuration."""
        return SearchSpace(self.config.space, self.config.plugins)

    @property
    def seeds(self) -> list[int]:
        """The seeds from which each network is trained."""
        return list(range(self.config.seed, self.config.seed + self.config.retrain.seeds))

    def __getstate__(self) -> dict[str, Any]:
        workspace = Workspace(self.workspace.directory.absolute())
        return {"config": with_absolute_paths(self.config), "workspace": workspace}


@dataclass(frozen=True)
class Task:
    """One network to train, and where.

    Attributes:
        baseline: Which kind of baseline it is; empty for what was chosen.
    """

    name: str
    blueprint: Blueprint
    folder: Path
    baseline: str = ""


def prepare_setup(config: Config, workspace: Workspace) -> Setup:
    """Return what is shared, once nothing was found to stand in the way; no result is written.

    Raises:
        UserError: The data can't be read, the recipe or the runtime of ``latency`` is not
            possible, or the supernet to inherit from is another or none.
    """
    setup = Setup(config, workspace)
    check_recipe(config)
    if config.retrain.inherit:
        _check_supernet(config, workspace)
    _ = setup.conditions  # loads the images
    return setup


def new_task(setup: Setup, name: str, blueprint: Blueprint, baseline: str = "") -> Task:
    """Return a task in the folder ``NAME-HASH``; the hash is that of all that changes a result."""
    identity = _hash(setup.conditions, setup.config.seed, *blueprint.identity)[:8]
    folder = setup.workspace.retrained / f"{name}-{identity}"
    return Task(name, blueprint, folder, baseline)


def check_recipe(config: Config) -> None:
    """Refuse a recipe that would fail once a network is to be trained, or timed.

    Raises:
        UserError: There is no such optimizer, it can't take the recipe, or the runtime of
            ``latency`` can't be had.
    """
    space = SearchSpace(config.space, config.plugins)
    latency_fingerprint(config)
    network_trainer(build_network(space, all_convolution(space)), config.retrain, 1, config.seed)


def check_images(config: Config, splits: Splits) -> None:
    """Refuse a batch that no training has images for, before a supernet is trained.

    Raises:
        UserError: ``retrain.batch_size`` is larger than the number of training images.
    """
    batch, images = config.retrain.batch_size, len(splits.train.indices)
    if batch > images:
        raise UserError(
            f"retrain.batch_size: {batch} is not possible; there are {images} training images"
        )


class SeedTrainings:
    """What a worker does: it trains the network ``(FOLDER, SEED)``; see `train_seed`."""

    def __init__(self, setup: Setup, tasks: Sequence[Task]) -> None:
        self.setup, self.config = setup, setup.config
        self.tasks = {
            task.folder.name: Task(task.name, task.blueprint, task.folder.absolute())
            for task in tasks
        }

    def __call__(self, key: tuple[str, ...]) -> dict[str, float]:
        """Return the metrics of a seed; none of them is missing."""
        folder, seed = key
        with torch_threads(worker_threads(self.config)):
            return train_seed(self.setup, self.tasks[folder], int(seed))

    def finished(self, key: tuple[str, ...]) -> bool:
        """Return whether a training is done."""
        folder, seed = key
        return finished_metrics(seed_folder(self.tasks[folder], int(seed))) is not None


def seed_folder(task: Task, seed: int) -> Path:
    """Return where a seed's checkpoint, weights, history and metrics are."""
    return task.folder / f"seed-{seed}"


def train_seed(
    setup: Setup,
    task: Task,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, float]:
    """Train one network from one seed, or read its metrics where it is finished already.

    The test split is used once, after training.

    Raises:
        UserError: The training fails.
        KeyboardInterrupt: Asked to stop; the same call goes on.
    """
    config, folder = setup.config, seed_folder(task, seed)
    if (finished := finished_metrics(folder)) is not None:
        return finished
    splits, device, started = setup.splits, resolve_device(config.device), time.monotonic()
    seed_everything(seed, 0)
    with hold_in_step(device):
        if config.retrain.inherit:
            supernet = load_supernet(config, setup.workspace)
            network: nn.Module = supernet.extract(task.blueprint.architecture)
        else:
            network = task.blueprint.build()
        network.to(device)
    history = TrainingHistory(folder / "history.json")

    def epoch_done(epoch: int, loss: float, shipped: nn.Module) -> None:
        values = {"loss": loss, "accuracy": measure_accuracy(shipped, splits.validation)}
        history.add(epoch, values)
        if on_epoch is not None:
            on_epoch(epoch, values)

    with history.shown_when_stopped():
        shipped = train_alone(
            network, config, splits.train, seed, folder, on_step=on_step, on_epoch=epoch_done
        )
    assert splits.test is not None
    metrics: dict[str, float] = {
        "accuracy": measure_accuracy(shipped, splits.test),
        "validation_accuracy": measure_accuracy(shipped, splits.validation),
        "params": count_params(deployed(shipped)),
        "macs": count_macs(deployed(shipped), (1, *image_shape(config))),
        "seed": seed,
        "seconds": time.monotonic() - started,
    }
    save_weights(folder / WEIGHTS, shipped, as_metadata(setup.expected))
    history.plot()
    write_atomically(folder / METRICS_FILE, json.dumps(metrics, indent=1))
    return metrics


def begin_run(setup: Setup, task: Task, seed: int, tracker: Tracker) -> Run:
    """Begin or continue the MLflow run of a seed."""
    params = {
        "architecture": "/".join(task.blueprint.architecture),
        "seed": seed,
        "retrain": config_to_dict(setup.config.retrain),
    }
    tags = {
        "network": task.folder.name,
        "seed": seed,
        "plain": task.blueprint.plain,
        "conditions": setup.conditions,
        **({"baseline": task.baseline} if task.baseline else {}),
    }
    return tracker.child(run_name(task, seed), "retrain", params, tags)


def run_name(task: Task, seed: int) -> str:
    """Return how the MLflow run of a seed is called."""
    return f"retrain {task.folder.name} seed {seed}"


def track_epoch(run: Run, epoch: int, values: dict[str, float]) -> None:
    """Log what an epoch came to."""
    metrics = {"loss": values["loss"], "validation_accuracy": values["accuracy"]}
    run.metrics(metrics, step=epoch)


def track_result(run: Run, task: Task, metrics: dict[str, float]) -> None:
    """Log the metrics and the curves of a seed that is trained, and end its run."""
    measured = {key: value for key, value in metrics.items() if key != "seed"}
    run.metrics({f"test_{key}" if key == "accuracy" else key: v for key, v in measured.items()})
    run.artifact(seed_folder(task, int(metrics["seed"])) / "curves.png")
    run.finish()


def _check_supernet(config: Config, workspace: Workspace) -> None:
    """Check that the configuration is that of the supernet to inherit from.

    Raises:
        UserError: It isn't; the message names the difference. Or there is no supernet.
    """
    if not workspace.config.exists():
        load_supernet(config, workspace)  # says what is missing
    trained, now = what_matters(read_config(workspace.config)), what_matters(config)
    for key in SUPERNET_KEYS:
        if difference := first_difference(trained[key], now[key], key):
            raise UserError(
                f"retrain.inherit: the supernet of {workspace.directory} is another one: "
                f"{difference}. Take the old value, or train from scratch"
            )


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
