"""Accuracy of an architecture with weights inherited from the supernet."""

from __future__ import annotations

import torch
from torch import nn

from evaluators.calibration import Batches, recalibrate
from search_space.space import Architecture
from supernet.supernet import Supernet


@torch.no_grad()
def measure_accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the top-1 accuracy in percent. The network is left in eval mode."""
    network.eval()
    correct = total = 0
    for images, labels in batches:
        correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return 100.0 * correct / total


def inherited_accuracy(
    supernet: Supernet, architecture: Architecture, calibration: Batches, validation: Batches
) -> float:
    """Return the top-1 accuracy in percent of an architecture with the supernet's weights.

    A copy is extracted, its batch norms recalibrated, and the copy evaluated; the supernet is
    never changed.

    Args:
        calibration: Training images in a fixed order, without augmentation.
        validation: The search-validation split.
    """
    network = supernet.extract(architecture)
    recalibrate(network, calibration)
    return measure_accuracy(network, validation)
