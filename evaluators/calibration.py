"""Batch-norm statistics of one network, after a training in which many shared its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from evaluators.device_lock import shared_device

Batches = Iterable[tuple[Tensor, Tensor]]


class SizedBatches(Protocol):
    """Batches that say beforehand how many they are, in the same order at every iteration."""

    @property
    def images(self) -> int:
        """The number of images in all batches."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B, C, H, W) images and (B,) labels."""


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches) -> None:
    """Replace the batch norms' running statistics by the average over some batches.

    The supernet's statistics mix all paths; these belong to this network alone (cumulative
    average, `momentum=None`). The network is left in eval mode. The device is held shared, and
    released between batches.

    Args:
        batches: (B, C, H, W) training images, without augmentation, in a fixed order.
    """
    with averaging(batch_norms(network)):
        network.train()
        for images, _ in batches:
            with shared_device(images.device):
                network(images)
    network.eval()


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return all batch norms of a network."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def averaging(norms: Sequence[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Reset running statistics, and let them be averages of what comes until the block ends."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
