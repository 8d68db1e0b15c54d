"""Asymmetric convolution block: a K×K kernel trained together with its own row and column.

Paper: ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks
(https://arxiv.org/abs/1908.03930).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, fold_norm, fused_conv, largest_divisor, same_padding
from search_space.options import Dilation, KernelSize
from search_space.registry import register_operator


@register_operator("asymmetric")
class AsymmetricConv2d(nn.Module):
    """Y = BN(W * X) + BN(row * X) + BN(column * X); deployed, one K×K convolution.

    With g groups, in training: parameters (K² + 2·K)·C_in·C_out/g + 6·C_out, MACs
    (K² + 2·K)·(C_in·C_out/g)·H'·W'. Deployed (`reparameterize`): K²·C_in·C_out/g + C_out and
    K²·(C_in·C_out/g)·H'·W'.

    Args:
        kernel_size: Odd side length K.
        dilation: Distance of a kernel's taps.
        groups: Lowered to the largest common divisor of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        dilation: Dilation = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        groups = largest_divisor(groups, in_channels, out_channels)

        def branch(height: int, width: int) -> nn.Sequential:
            # the padding of each axis follows its own length, so that all centres coincide
            padding = (same_padding(height, dilation), same_padding(width, dilation))
            conv = nn.Conv2d(
                in_channels, out_channels, (height, width), stride, padding, dilation, groups,
                bias=False,
            )  # fmt: skip
            return nn.Sequential(conv, BatchNorm2d(out_channels))

        k = kernel_size
        self.branches = nn.ModuleList([branch(k, k), branch(1, k), branch(k, 1)])

    def forward(self, x: Tensor) -> Tensor:
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
        return out

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Add row and column to the K×K kernel's middle: one convolution, equal in eval mode."""
        if len(self.branches) == 1:
            return
        branches = [[*branch] for branch in self.branches]  # type: ignore[misc]
        parts = [fold_norm(conv.weight, norm) for conv, norm in branches]
        (kernel, _), (row, _), (column, _) = parts
        middle = kernel.shape[-1] // 2
        kernel[:, :, middle] += row[:, :, 0]
        kernel[:, :, :, middle] += column[..., 0]
        bias = torch.stack([bias for _, bias in parts]).sum(0)
        self.branches = nn.ModuleList([fused_conv(branches[0][0], kernel, bias)])
