"""Accuracy of an architecture with weights inherited from the supernet."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from search_space.space import Architecture
from supernet.supernet import Supernet

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches) -> None:
    """Replaces the batch norms' running statistics by the average over some batches.

    The supernet's statistics mix all paths; these belong to this network alone (cumulative
    average, `momentum=None`). The network is left in eval mode.

    Args:
        batches: (B, C, H, W) training images, without augmentation, in a fixed order.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images, _ in batches:
        network(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def measure_accuracy(network: nn.Module, batches: Batches) -> float:
    """Top-1 accuracy in percent. The network is left in eval mode."""
    network.eval()
    correct = total = 0
    for images, labels in batches:
        correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return 100.0 * correct / total


def inherited_accuracy(
    supernet: Supernet, architecture: Architecture, calibration: Batches, validation: Batches
) -> float:
    """Top-1 accuracy in percent of an architecture with the supernet's weights.

    A copy is extracted, its batch norms recalibrated, and the copy evaluated; the supernet is
    never changed.

    Args:
        calibration: Training images in a fixed order, without augmentation.
        validation: The search-validation split.
    """
    network = supernet.extract(architecture)
    recalibrate(network, calibration)
    return measure_accuracy(network, validation)
