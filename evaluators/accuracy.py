"""Accuracy of an architecture with weights inherited from the supernet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from evaluators.calibration import Batches, recalibrate
from evaluators.device_lock import shared_device
from search_space.space import Architecture
from supernet.supernet import Supernet


def measure_accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the top-1 accuracy in percent. The network is left in eval mode."""
    correct, images = count_correct(correct_by_batch(network, batches))
    return 100.0 * correct / images


def correct_by_batch(network: nn.Module, batches: Batches) -> Iterator[tuple[int, int]]:
    """Yield for each batch how many images have their own label on top, and how many there are.

    The network is left in eval mode. The device is held shared, and released between batches.
    """
    network.eval()
    for images, labels in batches:
        with shared_device(images.device), torch.no_grad():
            correct = count_hits(network(images), labels)
        yield correct, len(labels)


def count_hits(logits: Tensor, labels: Tensor) -> int:
    """Return how many of (B, classes) logits are largest at their label, of (B,)."""
    return int((logits.argmax(1) == labels).sum())


def count_correct(
    batches: Iterable[tuple[int, int]], enough: Callable[[int, int], bool] = lambda *_: False
) -> tuple[int, int]:
    """Add up what `correct_by_batch` yields.

    Args:
        enough: Says of the sums so far that the other batches need not be read.
    """
    correct = images = 0
    for hits, size in batches:
        correct, images = correct + hits, images + size
        if enough(correct, images):
            break
    return correct, images


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
