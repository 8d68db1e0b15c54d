"""Selective kernel: branches of different receptive field, weighted per channel by attention.

Paper: Selective Kernel Networks (https://arxiv.org/abs/1903.06586), equations 1-6 for two
branches. `timm.layers.SelectiveKernel(split_input=False)` computes the same and is the test's
oracle; it stacks the branches, and its batch norms refuse batch 1 on a 1x1 map.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, largest_divisor
from search_space.options import between
from search_space.registry import register_operator


@register_operator("selective_kernel")
class SelectiveKernel(nn.Module):
    """V = a·U3 + (1 - a)·U5 with U = ReLU(BN(conv X)) and a = softmax over the two branches.

    The 5x5 branch is a 3x3 of dilation 2, or a true 5x5 when `depthwise`. With g groups and
    d = max(C_out/reduction, min_channels): parameters 2·9·C_in·C_out/g + 4·C_out + 3·C_out·d + 2d,
    MACs 2·9·(C_in·C_out/g)·H'·W' + 3·C_out·d (depthwise: 9 + 25 in place of 2·9, g = C_out).

    Args:
        groups: Groups of both branches; lowered to the largest common divisor of the channels.
        reduction: Narrowing of the attention.
        min_channels: The attention keeps at least this many channels (the paper's L).
        depthwise: One kernel per channel; a 1x1 convolution and a batch norm come first where
            the channel counts differ.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        groups: int = 32,
        reduction: int = 16,
        min_channels: Annotated[int, between(1, 999)] = 32,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.entry: nn.Module = nn.Identity()
        if depthwise:
            if in_channels != out_channels:
                self.entry = nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, bias=False), BatchNorm2d(out_channels)
                )
                in_channels = out_channels
            groups = out_channels
        groups = largest_divisor(groups, in_channels, out_channels)

        def branch(kernel_size: int, dilation: int) -> nn.Sequential:
            padding = dilation * (kernel_size // 2)
            return nn.Sequential(
                nn.Conv2d(
                    in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                    bias=False,
                ),
                BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            )  # fmt: skip

        self.small = branch(3, 1)
        self.large = branch(5, 1) if depthwise else branch(3, 2)
        hidden = max(out_channels // reduction, min_channels)
        self.squeeze = nn.Sequential(
            nn.Conv2d(out_channels, hidden, 1, bias=False),
            BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.select = nn.Conv2d(hidden, 2 * out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        small, large = self.small(x), self.large(x)
        pooled = small.mean((2, 3), keepdim=True) + large.mean((2, 3), keepdim=True)
        for_small, for_large = self.select(self.squeeze(pooled)).chunk(2, dim=1)
        # a softmax over two is a sigmoid of the difference
        return torch.lerp(large, small, (for_small - for_large).sigmoid())
