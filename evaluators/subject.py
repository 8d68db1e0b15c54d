"""A network under measurement: what a metric is given."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from configs.latency import LatencySettings
from evaluators.accuracy import Reading, read_by_batch
from evaluators.calibration import SizedBatches, recalibrate
from evaluators.latency import Latency, measure_latency
from evaluators.runtimes import deployed
from evaluators.training_free import IMAGES


class EvaluationData(Protocol):
    """The images that an evaluation may see; `experiments.data` provides them."""

    @property
    def calibration(self) -> SizedBatches:
        """Training images in a fixed order, without augmentation."""

    @property
    def validation(self) -> SizedBatches:
        """Images that are neither trained on nor tested on: what this evaluation may read.

        In random order, so that some of them may be read for all.
        """


def time_here(subject: Subject) -> Latency:
    """Time a network on its own device."""
    return measure_latency(
        subject.network,
        subject.image_shape,
        subject.settings,
        device=subject.device,
        reference_ms=subject.reference_ms,
    )


@dataclass
class Subject:
    """A network under measurement, and what it is measured with. Costly parts are made on demand.

    Attributes:
        network: The stand-alone network with its weights, on its device. Measuring must not change
            it. Its batch-norm statistics may be those of a supernet; see `calibrated`.
        image_shape: (C, H, W) of one image.
        load_data: Gives the images, when a metric first asks for them.
        settings: How latency is measured; its batch is that of memory too.
        reference_ms: The unit of latencies, see `measure_latency`; None for that of this process.
        recalibrate: Recalibrates batch norms; as `evaluators.recalibrate`, or sooner.
        read_by_batch: Reads answers to images; as `evaluators.accuracy.read_by_batch`, or sooner.
        timed_devices: Those of this machine on which latencies are timed: whatever else an
            evaluation does keeps off them, too, while they are in use.
        target: The target device that is meant; "" is the one that `settings` are about.
        time: Measures the latency on that target.
    """

    network: nn.Module
    image_shape: tuple[int, int, int]
    load_data: Callable[[], EvaluationData]
    settings: LatencySettings
    device: torch.device
    reference_ms: float | None = None
    recalibrate: Callable[[Any, SizedBatches], None] = recalibrate
    read_by_batch: Callable[[Any, SizedBatches], Iterator[Reading]] = read_by_batch
    timed_devices: tuple[torch.device, ...] = ()
    target: str = ""
    time: Callable[[Subject], Latency] = time_here

    @functools.cached_property
    def deployed(self) -> nn.Module:
        """The network as it is shipped: eval mode, training-time branches fused."""
        return deployed(self.network)

    @functools.cached_property
    def data(self) -> EvaluationData:
        """Calibration and validation images."""
        return self.load_data()

    @functools.cached_property
    def first_images(self) -> torch.Tensor:
        """The first `IMAGES` calibration images, (B, C, H, W), for scores of untrained networks."""
        images, _ = next(iter(self.data.calibration))
        return images[:IMAGES]

    @functools.cached_property
    def calibrated(self) -> nn.Module:
        """A copy with batch-norm statistics of its own, in eval mode."""
        network = copy.deepcopy(self.network)
        self.recalibrate(network, self.data.calibration)
        return network
