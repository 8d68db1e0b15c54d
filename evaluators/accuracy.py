"""Accuracy of an architecture with weights inherited from the supernet."""

from __future__ import annotations

import math

import torch
from torch import nn

from evaluators.calibration import Batches, recalibrate
from evaluators.device_lock import shared_device
from search_space.space import Architecture
from supernet.supernet import Supernet


def measure_accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the top-1 accuracy in percent. The network is left in eval mode."""
    correct, images = count_correct(network, batches)
    return 100.0 * correct / images


@torch.no_grad()
def count_correct(network: nn.Module, batches: Batches) -> tuple[int, int]:
    """Return how many images have their own label on top, and how many there are.

    The network is left in eval mode. The device is held shared, and released between batches.
    """
    network.eval()
    correct = total = 0
    for images, labels in batches:
        with shared_device(images.device):
            correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return correct, total


def accuracy_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy, in points: sqrt(p (1 - p) / n), binomial.

    Where no image is wrong, or none right, that would be zero, which no number of images can show;
    it is then that of half an image.

    Args:
        accuracy: In percent.
        images: How many images it was read from.
    """
    share = min(max(accuracy / 100, 0.5 / images), 1 - 0.5 / images)
    return 100 * math.sqrt(share * (1 - share) / images)


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
