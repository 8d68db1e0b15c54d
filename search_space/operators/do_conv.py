"""DO-Conv: a convolution over-parameterised by a depthwise transform of its kernel.

Paper: DO-Conv: Depthwise Over-parameterized Convolutional Layer
(https://arxiv.org/abs/2006.12030).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from search_space.layers import full_precision, largest_divisor, same_padding
from search_space.options import Dilation, odd
from search_space.registry import register_operator


@register_operator("do_conv")
class DepthwiseOverConv2d(nn.Module):
    """Y = (D∘W) * X with (D∘W)[o, i, u] = sum over s of D[i, u, s] W[o, i, s], D a K²×K² matrix.

    D = I + a parameter that starts at zero, so that weight decay pulls towards the plain
    convolution. With g groups, in training: parameters K²·C_in·C_out/g + K⁴·C_in, MACs
    K²·(C_in·C_out/g)·(H'·W' + K²). Deployed (`reparameterize`): a plain convolution's.

    Args:
        kernel_size: Odd side length K; at most 31, for K⁴ parameters a channel.
        dilation: Distance of a kernel's taps.
        groups: Lowered to the largest common divisor of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: Annotated[int, odd(1, 31)] = 3,
        dilation: Dilation = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, same_padding(kernel_size, dilation),
            dilation, largest_divisor(groups, in_channels, out_channels), bias=False,
        )  # fmt: skip
        taps = kernel_size**2
        self.over: nn.Parameter | None = nn.Parameter(torch.zeros(in_channels, taps, taps))

    def kernel(self) -> Tensor:
        """Return the composed kernel (C_out, C_in/g, K, K)."""
        weight = self.conv.weight
        if self.over is None:
            return weight
        groups = self.conv.groups
        taps = weight.flatten(2).unflatten(0, (groups, -1))  # (g, out/g, in/g, K²)
        with full_precision(weight):
            change = torch.einsum("gius,gois->goiu", self.over.unflatten(0, (groups, -1)), taps)
        return weight + change.reshape_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv._conv_forward(x, self.kernel(), None)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Replace the kernel by the composed one, which is then all there is."""
        self.conv.weight.copy_(self.kernel())
        self.over = None
