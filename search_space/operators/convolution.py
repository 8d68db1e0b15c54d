"""Convolution and depthwise convolution.

Y[o, p] = sum over i, u of W[o, i, u] X[i, stride p + dilation (u - K//2)].
"""

from __future__ import annotations

from torch import nn

from search_space.layers import BatchNorm2d, largest_divisor
from search_space.registry import register_operator


@register_operator("convolution")
def convolution(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int = 3,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Module:
    """Plain, dilated or grouped convolution.

    Parameters K²·C_in·C_out/groups, MACs the same times H'·W'. `groups` is lowered to the largest
    common divisor of the channels.
    """
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        dilation * (kernel_size // 2),
        dilation,
        largest_divisor(groups, in_channels, out_channels),
        bias=False,
    )


@register_operator("depthwise")
def depthwise(in_channels: int, out_channels: int, stride: int, kernel_size: int = 3) -> nn.Module:
    """One K×K kernel per channel, as in MobileNet (https://arxiv.org/abs/1704.04861).

    Parameters K²·C, MACs K²·C·H'·W'. Where the channel counts differ, a batch norm and a 1x1
    convolution follow (C_in·C_out more parameters, times H'·W' more MACs).
    """
    spatial = nn.Conv2d(
        in_channels, in_channels, kernel_size, stride, kernel_size // 2,
        groups=in_channels, bias=False,
    )  # fmt: skip
    if in_channels == out_channels:
        return spatial
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(spatial, BatchNorm2d(in_channels), pointwise)
