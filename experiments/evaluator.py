"""What a search worker does with an architecture: numbers from cheap to dear."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from configs import Config, UserError
from evaluators import (
    Latency,
    count_macs,
    count_params,
    deployed,
    fingerprint,
    fingerprint_key,
    measure_latency,
    shared_device,
)
from evaluators.accuracy import inherited_accuracy
from evaluators.device import torch_threads
from experiments.data.splits import Splits, load_splits
from experiments.devices import resolve_device
from experiments.train import load_supernet
from experiments.workspace import Workspace
from search_space import Architecture
from supernet import Supernet


class SupernetEvaluator:
    """Params and MACs, then latency, then accuracy; stops where a bound is exceeded.

    Sent to a worker it is a configuration and a directory; supernet and data are loaded there on
    the first call and stay. The supernet is never changed. The test split is never loaded.

    Args:
        expected: Latency fingerprint of the search. Another device's timings are refused: values
            with different fingerprints never share a front.
    """

    def __init__(
        self, config: Config, workspace: Workspace, expected: dict[str, Any] | None = None
    ) -> None:
        # a worker stands in another folder
        data = dataclasses.replace(
            config.data, root=os.path.abspath(config.data.root) if config.data.root else ""
        )
        plugins = tuple(map(os.path.abspath, config.plugins))
        self.config = dataclasses.replace(config, data=data, plugins=plugins)
        self.workspace = Workspace(workspace.directory.absolute())
        self.expected = expected
        wanted = {*config.search.objectives, *config.search.constraints}
        self.wants_latency, self.wants_accuracy = "latency_ms" in wanted, "accuracy" in wanted
        self._supernet: Supernet | None = None
        self._splits: Splits | None = None

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Metrics of an architecture; the dear ones are missing where a bound is exceeded.

        Raises:
            TooNoisy: The device was too restless for a latency.
            UserError: The worker's device isn't the one the search is about.
        """
        network = self.supernet.extract(architecture)
        metrics = self.costs(network)
        if self.wants_latency and not self._exceeds(metrics):
            metrics |= self.latencies(network)
        if self.wants_accuracy and not self._exceeds(metrics):
            metrics["accuracy"] = self.accuracy(architecture)
        return metrics

    def profile(self, architecture: Architecture) -> dict[str, float]:
        """All metrics but accuracy, whatever the bounds."""
        network = self.supernet.extract(architecture)
        return {**self.costs(network), **(self.latencies(network) if self.wants_latency else {})}

    def costs(self, network: torch.nn.Module) -> dict[str, float]:
        """Params, and MACs per image, of the network as it is deployed."""
        network = deployed(network)
        size = self.config.space.input_size
        shape = (1, self.config.space.in_channels, size, size)
        return {"params": count_params(network), "macs": count_macs(network, shape)}

    def latencies(self, network: torch.nn.Module) -> dict[str, float]:
        """Median in ms and relative spread, reference-corrected."""
        latency = self.latency(network)
        return {"latency_ms": latency.median_ms, "latency_spread": latency.spread}

    def latency(self, network: torch.nn.Module) -> Latency:
        """The measured latency of a network, on the device and as the configuration says."""
        latency = time_network(network, self.config)
        if self.expected and fingerprint_key(latency.fingerprint) != fingerprint_key(self.expected):
            different = {
                key: (self.expected.get(key), value)
                for key, value in latency.fingerprint.items()
                if self.expected.get(key) != value
            }
            raise UserError(f"this device is not the one that is searched for: {different}")
        return latency

    def accuracy(self, architecture: Architecture) -> float:
        """Top-1 in percent on the search-validation split, weights inherited."""
        search, threads = self.config.search, torch.get_num_threads()
        if search.workers > 1:
            threads = max(int(search.cpus_per_worker), 1)
        with shared_device(resolve_device(self.config.device)), torch_threads(threads):
            splits = self.splits
            return inherited_accuracy(
                self.supernet, architecture, splits.calibration, splits.validation
            )

    @property
    def supernet(self) -> Supernet:
        if self._supernet is None:
            self._supernet = load_supernet(self.config, self.workspace)
        return self._supernet

    @property
    def splits(self) -> Splits:
        if self._splits is None:
            self._splits = load_splits(self.config, resolve_device(self.config.device))
        return self._splits

    def _exceeds(self, metrics: dict[str, float]) -> bool:
        bounds = self.config.search.constraints
        return any(metrics[name] > bound for name, bound in bounds.items() if name in metrics)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_supernet": None, "_splits": None}


def time_network(network: torch.nn.Module, config: Config) -> Latency:
    """Latency of a network under the configuration's `latency` section."""
    latency = config.latency
    return measure_latency(
        network,
        _shape(config),
        device=resolve_device(config.device),
        runtime=latency.runtime,
        dtype=latency.dtype,
        channels_last=latency.channels_last,
        threads=latency.threads,
        repeats=latency.repeats,
        max_spread=latency.max_spread,
    )


def latency_fingerprint(config: Config) -> dict[str, Any]:
    """What a latency measured here under this configuration would be marked with."""
    latency = config.latency
    return fingerprint(
        _shape(config),
        device=resolve_device(config.device),
        runtime=latency.runtime,
        dtype=latency.dtype,
        channels_last=latency.channels_last,
        threads=latency.threads,
    )


def _shape(config: Config) -> tuple[int, int, int, int]:
    size = config.space.input_size
    return (config.latency.batch, config.space.in_channels, size, size)
