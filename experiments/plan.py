"""What a run will do and how long it will take, from steps that were measured on this machine."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs import Config
from configs.errors import TooNoisy
from experiments.classification import network_trainer, supernet_trainer
from experiments.console import as_duration
from experiments.data.splits import Splits, load_splits
from experiments.devices import hold_in_step, resolve_device, workers_at_a_time
from experiments.evaluator import SupernetEvaluator
from experiments.targets import on_this_host
from experiments.train import new_supernet
from experiments.workspace import Workspace
from search_space import build_network
from supernet import Supernet, Trainer

STEPS, TRIALS = 3, 2  # that are measured; the best counts, the others warm up
RETRAINED = 2  # networks of `evolute run`: the pick and its baseline


@dataclass(frozen=True)
class Part:
    """A part of a run: what is done how often, and the seconds that each takes."""

    name: str
    count: int
    what: str
    seconds: float
    at_a_time: int = 1

    @property
    def total(self) -> float:
        """The seconds of all."""
        return self.count * self.seconds / max(self.at_a_time, 1)

    def __str__(self) -> str:
        """Return ``supernet: 40 epochs x 4.1 s = 3 min``."""
        if self.count == 1:
            return f"{self.name}: at most {as_duration(self.total)}"
        beside = f", {self.at_a_time} at a time" if self.at_a_time > 1 else ""
        each = f"{self.seconds:.1f} s" if self.seconds < 100 else as_duration(self.seconds)
        times = f"{self.count} {self.what} x {each}{beside}"
        return f"{self.name}: {times} = {as_duration(self.total)}"


@dataclass(frozen=True)
class Plan:
    """All parts of a run, in their order."""

    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """The seconds of the whole run."""
        return sum(part.total for part in self.parts)

    def __str__(self) -> str:
        """Return a line for each part, and the sum."""
        lines = [f"{part}." for part in self.parts]
        lines.append(
            f"About {as_duration(self.total)} in all, on this machine as it is now. Stop it "
            "whenever you like: the same command goes on."
        )
        return "\n".join(line[0].upper() + line[1:] for line in lines)

    def __rich__(self) -> str:
        """Return the same for a console, which would print a dataclass as code."""
        return str(self)


def measure_plan(config: Config, splits: Splits | None = None) -> Plan:
    """Time some steps of everything that a run does; nothing is kept.

    Args:
        splits: The images of the configuration, where they are loaded already.

    Raises:
        UserError: The configuration's data can't be read, or a recipe is not possible.
    """
    device = resolve_device(config.device)
    with hold_in_step(device):
        splits = splits or load_splits(config, device)
        supernet = new_supernet(config).to(device)
    steps = splits.train.steps_per_epoch
    trainer = supernet_trainer(supernet, config.train, steps, config.seed)
    epoch = steps * _step_seconds(trainer, splits)
    training = Part("supernet", config.train.epochs, "epochs", epoch)
    return Plan((training, *_after_training(config, supernet, splits, training)))


def _after_training(
    config: Config, supernet: Supernet, splits: Splits, training: Part
) -> Iterator[Part]:
    search, at_a_time = config.search, workers_at_a_time(config)
    yield Part("search", search.trials, "trials", _trial_seconds(config, supernet, splits),
               at_a_time)  # fmt: skip
    if search.verify:
        share = config.verify.budget * training.total
        yield Part("verification", 1, "", share)
    architecture = supernet.space.sample(np.random.default_rng(config.seed))
    network = build_network(supernet.space, architecture).to(resolve_device(config.device))
    recipe = config.retrain
    images = len(splits.train.indices)
    steps = max(images // recipe.batch_size, 1)
    trainer = network_trainer(network, recipe, steps, config.seed)
    share = recipe.batch_size / splits.train.batch_size  # the batches here are the supernet's
    seconds = recipe.epochs * steps * share * _step_seconds(trainer, splits)
    yield Part("retraining", RETRAINED * recipe.seeds, "networks", seconds)


def _step_seconds(trainer: Trainer, splits: Splits) -> float:
    epochs = map(splits.train.epoch, itertools.count())
    batches = itertools.chain.from_iterable(epochs)

    def step() -> None:
        images, labels = next(batches)
        with hold_in_step(trainer.device):
            trainer.train_step(images, labels)

    return min(_seconds(step) for _ in range(STEPS))


def _trial_seconds(config: Config, supernet: Supernet, splits: Splits) -> float:
    """Time the evaluation of random architectures with the weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        evaluator = SupernetEvaluator(on_this_host(config), Workspace(Path(folder)))
        evaluator.use(supernet.eval(), splits)
        rng = np.random.default_rng(config.seed)
        times = []
        for _ in range(TRIALS):
            architecture = supernet.space.sample(rng)

            def trial(architecture=architecture) -> None:
                with contextlib.suppress(TooNoisy):  # that takes its time too
                    evaluator(architecture)

            times.append(_seconds(trial))
    return min(times)


def _seconds(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
