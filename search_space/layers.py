"""Small parts that several operators and blocks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel.

    PyTorch refuses a (1, C, 1, 1) input in training, which global pooling at batch size 1 makes.
    There is no variance to learn from then: the running statistics are used and left alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def largest_divisor(limit: int, *channels: int) -> int:
    """The largest common divisor of `channels` that is at most `limit`."""
    common = math.gcd(*channels)
    return next(d for d in range(min(common, max(limit, 1)), 0, -1) if common % d == 0)


def pool(x: Tensor, stride: int) -> Tensor:
    """Average pooling to ceil(H/stride), exact at the border of odd sizes."""
    if stride == 1:
        return x
    return F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        BatchNorm2d(out_channels),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """He initialisation of plain convolutions (fan-out, ReLU), as ResNet and RedNet use it."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
