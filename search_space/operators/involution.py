"""Involution: a kernel generated at every pixel, shared by the channels of a group.

Paper: Involution: Inverting the Inherence of Convolution for Visual Recognition
(https://arxiv.org/abs/2103.06255), equations 4-6.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_space.kernels.involution import spanned_involution
from search_space.layers import BatchNorm2d, largest_divisor, pool
from search_space.options import KernelSize
from search_space.registry import register_operator


@register_operator("involution")
class Involution(nn.Module):
    """Y[c, p] = sum over u of H[p, u, group of c] X[c, stride p + u], H = span(reduce(pool(X))).

    Only the generator's input is pooled; X itself is read at the stride. With G groups and
    reduction r: parameters (C² + C·G·K²)/r + G·K² + 2C/r, MACs [(C² + C·G·K²)/r + K²·C]·H'·W'.
    Where the channel counts differ, a 1x1 convolution follows.

    Args:
        kernel_size: Odd side length K of the generated kernels.
        group_channels: Channels that share a kernel; lowered to the largest divisor of C.
        reduction: Narrowing r inside the generator, which keeps at least 8 channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 7,
        group_channels: int = 16,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        groups = in_channels // largest_divisor(group_channels, in_channels)
        hidden = max(in_channels // reduction, 8)
        self.kernel_size, self.stride = kernel_size, stride
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.span = nn.Conv2d(hidden, groups * kernel_size**2, 1)
        self.project: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.project = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.reduce(pool(x, self.stride))
        return self.project(
            spanned_involution(x, features, self.span, self.kernel_size, self.stride)
        )
