"""What a search worker does with an architecture: it is extracted and measured."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from configs import Config, UserError
from configs.differences import first_difference
from evaluators import fingerprint, measure_in_order
from evaluators.cascade import in_order
from evaluators.fingerprint import Fingerprint
from evaluators.metrics import EVALUATED, METRICS, Subject
from evaluators.threads import torch_threads
from experiments.data.splits import Splits, load_splits
from experiments.devices import resolve_device
from experiments.settings import goal_of
from experiments.train import load_supernet
from experiments.workspace import Workspace
from search_space import Architecture
from supernet import Supernet


class SupernetEvaluator:
    """The metrics of a search's goal, with weights inherited from a trained supernet.

    Sent to a worker it is a configuration and a directory; supernet and data are loaded there on
    the first call and stay. The supernet is never changed. The test split is never loaded.

    Args:
        expected: Latency fingerprint of the search. Another device is refused: values with
            different fingerprints never share a front.
    """

    def __init__(
        self, config: Config, workspace: Workspace, expected: Fingerprint | None = None
    ) -> None:
        # a worker is in another folder
        data = dataclasses.replace(
            config.data, root=os.path.abspath(config.data.root) if config.data.root else ""
        )
        plugins = tuple(map(os.path.abspath, config.plugins))
        self.config = dataclasses.replace(config, data=data, plugins=plugins)
        self.workspace = Workspace(workspace.directory.absolute())
        self.expected = expected
        self._supernet: Supernet | None = None
        self._splits: Splits | None = None

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return the metrics of an architecture; expensive ones are missing over a bound.

        Raises:
            TooNoisy: The device was too busy for a latency.
            UserError: The worker's device is not the one the search is about.
        """
        subject, goal = self._subject(architecture), goal_of(self.config)
        with torch_threads(self._threads()):
            return measure_in_order(subject, self.metrics, goal.exceeded)

    def profile(self, architecture: Architecture) -> dict[str, float]:
        """Return all metrics of the goal that need no images, whatever the bounds."""
        subject = self._subject(architecture)
        return measure_in_order(subject, self.cheap_metrics, lambda values: False)

    @property
    def cheap_metrics(self) -> list[str]:
        """Names of the goal's metrics that need no images."""
        return [m.name for m in in_order(self.metrics) if m.effort < EVALUATED]

    @property
    def metrics(self) -> list[str]:
        """Names of the goal's metrics, and of those that are always measured."""
        always = [metric.name for metric in METRICS.values() if metric.always]
        return [*always, *goal_of(self.config).metrics]

    def _subject(self, architecture: Architecture) -> Subject:
        network = self.supernet.extract(architecture)  # loads the plugins, and with them metrics
        self._check_device()
        return Subject(
            network=network,
            image_shape=image_shape(self.config),
            load_data=lambda: self.splits,
            settings=self.config.latency,
            device=resolve_device(self.config.device),
        )

    def _check_device(self) -> None:
        if self.expected is None:
            return
        if difference := first_difference(self.expected, latency_fingerprint(self.config)):
            raise UserError(f"this device is not the one that is searched for: {difference}")

    def _threads(self) -> int:
        """Several workers share the cores; one, or the process of the search, has them all."""
        search = self.config.search
        if search.workers > 1:
            return max(int(search.cpus_per_worker), 1)
        return torch.get_num_threads()

    @property
    def supernet(self) -> Supernet:
        """The trained supernet, loaded on first use."""
        if self._supernet is None:
            self._supernet = load_supernet(self.config, self.workspace)
        return self._supernet

    @property
    def splits(self) -> Splits:
        """Calibration and validation images, loaded on first use."""
        if self._splits is None:
            device, statistics = resolve_device(self.config.device), self.workspace.statistics
            self._splits = load_splits(self.config, device, statistics=statistics)
        return self._splits

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_supernet": None, "_splits": None}


def latency_fingerprint(config: Config) -> Fingerprint:
    """Return what a latency measured here under a configuration would be marked with."""
    return fingerprint(image_shape(config), config.latency, resolve_device(config.device))


def image_shape(config: Config) -> tuple[int, int, int]:
    """Return (C, H, W) of the images of a configuration."""
    return config.space.in_channels, config.space.input_size, config.space.input_size
