"""What an architecture answers to images: how many it gets right, and how sure it is of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.calibration import Batches, recalibrate
from evaluators.device_lock import shared_device
from search_space.space import Architecture
from supernet.supernet import Supernet

PRECISE = 0.7  # points: a standard error with which differences of two points can be seen


class Reading(NamedTuple):
    """Sums over some images: right answers, images, cross entropies, and squares of the latter."""

    correct: int = 0
    images: int = 0
    losses: float = 0.0
    squares: float = 0.0

    def plus(self, other: Reading) -> Reading:
        """Return the reading of the images of both."""
        return Reading(
            self.correct + other.correct,
            self.images + other.images,
            self.losses + other.losses,
            self.squares + other.squares,
        )

    @property
    def accuracy(self) -> float:
        """Right answers in percent."""
        return 100.0 * self.correct / self.images

    @property
    def cross_entropy(self) -> float:
        """The mean, in nats."""
        return self.losses / self.images

    @property
    def deviation(self) -> float:
        """The standard deviation of the cross entropies of single images."""
        variance = self.squares / self.images - self.cross_entropy**2
        return math.sqrt(max(variance, 0.0) * self.images / max(self.images - 1, 1))


def measure_accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the top-1 accuracy in percent. The network is left in eval mode."""
    return read_all(read_by_batch(network, batches)).accuracy


def read_by_batch(network: nn.Module, batches: Batches) -> Iterator[Reading]:
    """Yield what a network answers to each batch.

    It is left in eval mode. The device is held shared, and released between batches.
    """
    network.eval()
    for images, labels in batches:
        with shared_device(images.device), torch.no_grad():
            reading = read_answers(network(images), labels)
        yield reading


def read_answers(logits: Tensor, labels: Tensor) -> Reading:
    """Return what (B, classes) logits say of images with (B,) labels."""
    losses = F.cross_entropy(logits.float(), labels, reduction="none").double()
    correct = int((logits.argmax(1) == labels).sum())
    return Reading(correct, len(labels), losses.sum().item(), losses.square().sum().item())


def read_all(
    readings: Iterable[Reading], enough: Callable[[Reading], bool] = lambda reading: False
) -> Reading:
    """Add up what `read_by_batch` yields.

    Args:
        enough: Says of the sums so far that the other batches need not be read.
    """
    total = Reading()
    for reading in readings:
        total = total.plus(reading)
        if enough(total):
            break
    return total


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


def too_few_images(images: int) -> str:
    """Return a warning for people where accuracies are not precise; else nothing."""
    error = accuracy_error(50.0, images)
    if error <= PRECISE:
        return ""
    return (
        f"An accuracy is read from {images} images: its standard error is {error:.2f} points at "
        f"50 %, more than {PRECISE}; a larger data.validation_fraction makes it smaller."
    )


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
