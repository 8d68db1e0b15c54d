"""What a search worker does with an architecture: it is extracted and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from configs import Config, UserError
from configs.differences import first_difference
from evaluators import Latency, measure_in_order, shared_device
from evaluators.cascade import in_order
from evaluators.fingerprint import Fingerprint
from evaluators.metric import COUNTED, EVALUATED, METRICS
from evaluators.prefixes import Prefixes
from evaluators.subject import Subject
from evaluators.threads import torch_threads
from experiments.data.splits import Splits, load_splits
from experiments.devices import resolve_device, worker_threads
from experiments.settings import goal_of
from experiments.targets import fingerprint_on, image_shape, on_this_host, time_on, timed_devices
from experiments.train import load_supernet
from experiments.workspace import Workspace, with_absolute_paths
from search_space import Architecture
from supernet import Supernet


class SupernetEvaluator:
    """The metrics of a search's goal, with weights inherited from a trained supernet.

    Sent to a worker it is a configuration and a directory; supernet and data are loaded there on
    the first call and stay. The supernet is never changed. The test split is never loaded.

    Args:
        expected: Latency fingerprint of the search. Another device is refused: values with
            different fingerprints never share a front.
        reference_ms: The study's unit of latency; None for that of the process.
        targets: Likewise, the fingerprint of each target device.
        units: Likewise, the unit of each.
        known: Metrics of architectures that need not be measured again.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        expected: Fingerprint | None = None,
        reference_ms: float | None = None,
        known: Mapping[Architecture, Mapping[str, float]] = MappingProxyType({}),
        targets: Mapping[str, Fingerprint] = MappingProxyType({}),
        units: Mapping[str, float | None] = MappingProxyType({}),
    ) -> None:
        self.config = with_absolute_paths(config)
        self.workspace = Workspace(workspace.directory.absolute())
        self.expected, self.reference_ms, self.known = expected, reference_ms, dict(known)
        self.targets, self.units = dict(targets), dict(units)
        self._supernet: Supernet | None = None
        self._prefixes: Prefixes | None = None
        self._splits: Splits | None = None

    def use(self, supernet: Supernet, splits: Splits) -> None:
        """Take a supernet and images that are loaded already, in this process."""
        self._supernet, self._splits = supernet, splits

    def __call__(
        self,
        architecture: Architecture,
        front: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
    ) -> dict[str, float]:
        """Return the metrics of an architecture; expensive ones are missing over a bound.

        Accuracy is read from the first half of the validation images.

        Args:
            front: Metrics of the front's members, by the number of their trial.

        Raises:
            Stopped: The architecture cannot reach this front any more.
            TooNoisy: The device was too busy for a latency.
            UserError: The worker's device is not the one the search is about.
        """
        subject, goal = self._subject(architecture, half=0), goal_of(self.config)
        if self.config.evaluate.cache_mb:
            subject.recalibrate = partial(self.prefixes.recalibrate, architecture)
            subject.read_by_batch = partial(self.prefixes.read_by_batch, architecture)

        def rival(name: str, values: Mapping[str, float]) -> tuple[str, float] | None:
            number = goal.rival(name, values, front)
            return None if number is None else (f"trial {number}", front[number][name])

        known = self.known.get(architecture, {})
        with torch_threads(worker_threads(self.config)):
            return measure_in_order(subject, self.metrics, goal.exceeded, known, rival)

    def again(self, architecture: Architecture) -> dict[str, float]:
        """Return a second measurement of all that is not counted, whatever the bounds.

        Accuracy is read from the second half of the validation images.
        """
        names = [metric.name for metric in in_order(self.metrics) if metric.effort > COUNTED]
        return measure_in_order(self._subject(architecture, half=1), names, _never)

    def profile(self, architecture: Architecture) -> dict[str, float]:
        """Return all metrics of the goal that need no images, whatever the bounds."""
        subject, known = self._subject(architecture), self.known.get(architecture, {})
        return measure_in_order(subject, self.cheap_metrics, _never, known)

    def sums(self, architecture: Architecture) -> dict[str, float]:
        """Return those metrics of the goal that are sums over the layers."""
        names = [name for name in self.metrics if METRICS[name].additive]
        return measure_in_order(self._subject(architecture), names, _never)

    def score(self, name: str, architecture: Architecture) -> float:
        """Return one metric of an architecture, whatever the bounds."""
        return measure_in_order(self._subject(architecture), [name], _never)[name]

    @property
    def cheap_metrics(self) -> list[str]:
        """Names of the goal's metrics that need no images."""
        return [m.name for m in in_order(self.metrics) if m.effort < EVALUATED]

    @property
    def metrics(self) -> list[str]:
        """Names of the goal's metrics, and of those that are always measured."""
        always = [metric.name for metric in METRICS.values() if metric.always]
        return [*always, *goal_of(self.config).metrics]

    def _subject(self, architecture: Architecture, half: int = 0) -> Subject:
        device = resolve_device(self.config.device)
        with shared_device(device):
            network = self.supernet.extract(architecture)  # loads the plugins, and their metrics
        self._check_device()
        return Subject(
            network=network,
            image_shape=image_shape(self.config),
            load_data=lambda: self._reading(half),
            settings=self.config.latency,
            device=device,
            reference_ms=self.reference_ms,
            timed_devices=timed_devices(self.config),
            time=partial(self._time, architecture),
        )

    def _time(self, architecture: Architecture, subject: Subject) -> Latency:
        unit, expected = self.reference_ms, self.expected
        if target := subject.target:
            unit, expected = self.units.get(target), self.targets.get(target)
        return time_on(self.config, architecture, unit, expected, subject)

    def _reading(self, half: int) -> Splits:
        """Return the splits with one half of the validation images in the place of all."""
        return dataclasses.replace(self.splits, validation=self.splits.halves[half])

    def _check_device(self) -> None:
        if self.expected is None or self.config.latency.resource:
            return
        if difference := first_difference(self.expected, latency_fingerprint(self.config)):
            raise UserError(f"this device is not the one that is searched for: {difference}")

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
            self._splits = load_splits(
                self.config,
                resolve_device(self.config.device),
                statistics=self.workspace.statistics,
                split=self.workspace.split,
            )
        return self._splits

    @property
    def prefixes(self) -> Prefixes:
        """What is known of architectures that begin alike, on the first half of validation."""
        if self._prefixes is None:
            self._prefixes = Prefixes(self.supernet.space, self.config.evaluate.cache_mb)
        return self._prefixes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_supernet": None, "_prefixes": None, "_splits": None}


def _never(values: Mapping[str, float]) -> bool:
    return False


def latency_fingerprint(config: Config) -> Fingerprint:
    """Return what a latency measured here under a configuration would be marked with."""
    return fingerprint_on(on_this_host(config), "")
