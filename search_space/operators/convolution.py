"""Convolution and its static relatives: depthwise, transposed, separable.

Y[o, p] = sum over i, u of W[o, i, u] X[i, stride p + dilation (u - K//2)]; the relatives constrain
W or flip it.
"""

from __future__ import annotations

from timm.layers import SeparableConv2d
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, largest_divisor, pool, same_padding
from search_space.options import Dilation, KernelSize
from search_space.registry import register_operator


@register_operator("convolution")
def convolution(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: KernelSize = 3,
    dilation: Dilation = 1,
    groups: int = 1,
) -> nn.Module:
    """Y[o, p] = sum over i, u of W[o, i, u] X[i, stride p + dilation (u - K//2)].

    Plain, pointwise (K = 1), dilated or grouped. Parameters K²·C_in·C_out/groups, MACs the same
    times H'·W'. `groups` is lowered to the largest common divisor of the channels.
    """
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        same_padding(kernel_size, dilation),
        dilation,
        largest_divisor(groups, in_channels, out_channels),
        bias=False,
    )


@register_operator("depthwise")
def depthwise(
    in_channels: int, out_channels: int, stride: int, kernel_size: KernelSize = 3
) -> nn.Module:
    """Y[c, p] = sum over u of W[c, u] X[c, stride p + u - K//2]: one kernel per channel.

    Paper: MobileNets (https://arxiv.org/abs/1704.04861). Parameters K²·C, MACs K²·C·H'·W'. Where
    the channel counts differ, a batch norm and a 1x1 convolution follow (C_in·C_out more
    parameters, times H'·W' more MACs).
    """
    spatial = nn.Conv2d(
        in_channels, in_channels, kernel_size, stride, same_padding(kernel_size),
        groups=in_channels, bias=False,
    )  # fmt: skip
    if in_channels == out_channels:
        return spatial
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(spatial, BatchNorm2d(in_channels), pointwise)


@register_operator("depthwise_separable")
def depthwise_separable(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: KernelSize = 3,
    activation: bool = True,
) -> nn.Module:
    """Y = P ReLU(BN(D * X)): a depthwise K×K kernel, then a pointwise convolution.

    Paper: MobileNets (https://arxiv.org/abs/1704.04861). Without the activation it is Xception's
    (https://arxiv.org/abs/1610.02357): one convolution of the kernel W[o, i, u] = P[o, i] D[i, u].
    Parameters C_in·(K² + C_out) + 2·C_in (the batch norm), MACs C_in·(K² + C_out)·H'·W'.

    Args:
        activation: Batch norm and ReLU between the two.
    """
    spatial = depthwise(in_channels, in_channels, stride, kernel_size)
    if not activation:
        return SeparableConv2d(in_channels, out_channels, kernel_size, stride)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(spatial, BatchNorm2d(in_channels), nn.ReLU(inplace=True), pointwise)


@register_operator("spatially_separable")
def spatially_separable(
    in_channels: int, out_channels: int, stride: int, kernel_size: KernelSize = 3
) -> nn.Module:
    """Y = R * (C * X): a K×1 column, then a 1×K row, with min(C_in, C_out) channels between.

    Paper: Rethinking the Inception Architecture (https://arxiv.org/abs/1512.00567), section 3.2.
    It composes to one K×K kernel of rank at most that many. With m channels between: parameters
    K·m·(C_in + C_out), MACs K·m·(C_in·H'·W + C_out·H'·W').
    """
    middle, padding = min(in_channels, out_channels), same_padding(kernel_size)
    column = nn.Conv2d(in_channels, middle, (kernel_size, 1), (stride, 1), (padding, 0), bias=False)
    row = nn.Conv2d(middle, out_channels, (1, kernel_size), (1, stride), (0, padding), bias=False)
    return nn.Sequential(column, row)


@register_operator("transposed")
class TransposedConv2d(nn.Module):
    """Y[o, p] = sum over i, u of W[i, o, u] X[i, p - u + K//2]: every pixel stamps its kernel.

    Source: A guide to convolution arithmetic (https://arxiv.org/abs/1603.07285). At stride 1, the
    only one that keeps a size, this is the convolution with the flipped kernel; so maps are pooled
    to the stride first. Parameters K²·C_in·C_out, MACs the same times H'·W'.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kernel_size: KernelSize = 3
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size, padding=same_padding(kernel_size), bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pool(x, self.stride))
