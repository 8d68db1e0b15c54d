"""Batch-norm statistics of one network, after a training in which many shared its weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from evaluators.device_lock import shared_device

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches) -> None:
    """Replace the batch norms' running statistics by the average over some batches.

    The supernet's statistics mix all paths; these belong to this network alone (cumulative
    average, `momentum=None`). The network is left in eval mode. The device is held shared, and
    released between batches.

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
        with shared_device(images.device):
            network(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.eval()
