"""Inverted residual: a whole layer with its own norms and residual, for stages without a block."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from search_space.layers import BatchNorm2d, conv_norm
from search_space.operators.convolution import depthwise
from search_space.options import Allowed, KernelSize
from search_space.registry import register_operator

FACTOR = Allowed(lambda value: 1 / 64 <= value <= 64, "a factor from 1/64 to 64 is needed")


@register_operator("inverted_residual")
class InvertedResidualConv(nn.Module):
    """Y = [X +] BN(P ReLU6(BN(D * ReLU6(BN(E X))))), with X where the shape is kept.

    Paper: MobileNetV2 (https://arxiv.org/abs/1801.04381), section 3.3. E is a 1x1 convolution to
    m = round(expansion · C_in) channels, D a depthwise K×K kernel, P a 1x1 convolution. Parameters
    m·(C_in + K² + C_out) and 4·m + 2·C_out of the batch norms, MACs m·(C_in·H·W + (K² +
    C_out)·H'·W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        expansion: Annotated[float, FACTOR] = 6.0,
    ) -> None:
        super().__init__()
        middle = max(round(in_channels * expansion), 1)
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = _activated(nn.Conv2d(in_channels, middle, 1, bias=False), middle)
        self.spatial = _activated(depthwise(middle, middle, stride, kernel_size), middle)
        self.reduce = conv_norm(middle, out_channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.reduce(self.spatial(self.expand(x)))
        return x + out if self.residual else out


def _activated(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, BatchNorm2d(channels), nn.ReLU6(inplace=True))
