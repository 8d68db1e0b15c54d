"""Heterogeneous convolution: K×K kernels for a part of each filter's inputs, 1x1 for the rest.

Paper: HetConv: Heterogeneous Kernel-Based Convolutions for Deep CNNs
(https://arxiv.org/abs/1903.04120).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_space.layers import largest_divisor, same_padding
from search_space.options import odd
from search_space.registry import register_operator


@register_operator("heterogeneous")
class HeterogeneousConv2d(nn.Module):
    """Y[o] = sum over i in part(o) of W[o, i] * X[i] + sum over the other i of P[o, i] X[i].

    The filters and the channels are divided into as many parts. The K×K kernels' centres are kept
    in the 1x1 convolution, which then serves all channels, and the grouped one has only what is
    around them. Parameters K²·C_in·C_out/parts + C_in·C_out·(1 - 1/parts), MACs
    C_in·C_out·(K²/parts + 1)·H'·W'.

    Args:
        kernel_size: Odd side length K, at least 3.
        parts: The paper's P, K×K kernels see one of P parts; lowered to the largest common
            divisor of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: Annotated[int, odd(3, 99)] = 3,
        parts: int = 4,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, same_padding(kernel_size)
        self.parts = largest_divisor(parts, in_channels, out_channels)
        self.point = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.around = nn.Parameter(
            torch.empty(out_channels, in_channels // self.parts, kernel_size**2 - 1)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise the two by He (fan-out) as the one convolution that they are."""
        out_channels, taps = self.point.out_channels, self.kernel_size**2
        std = (2 / (out_channels * (taps + self.parts - 1) / self.parts)) ** 0.5
        nn.init.normal_(self.point.weight, std=std)
        nn.init.normal_(self.around, std=std)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.around.chunk(2, dim=2)
        centre = torch.zeros_like(self.around[..., :1])
        kernel = torch.cat([before, centre, after], 2).unflatten(2, (self.kernel_size, -1))
        around = F.conv2d(x, kernel, None, self.stride, self.padding, groups=self.parts)
        return self.point(x) + around
