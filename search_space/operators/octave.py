"""Octave convolution: a share of the channels lives at half resolution.

Paper: Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with Octave
Convolution (https://arxiv.org/abs/1904.05049).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_space.layers import pool, same_padding
from search_space.options import Allowed, KernelSize
from search_space.registry import register_operator

SHARE = Allowed(lambda alpha: 0 <= alpha < 1, "a share in [0, 1) is needed")


@register_operator("octave")
class OctaveConv2d(nn.Module):
    """Y_H = W_HH * X_H + up(W_LH * X_L), Y_L = W_LL * X_L + W_HL * pool(X_H), Y = [Y_H, up(Y_L)].

    X_L is the pooled last share alpha of the channels; Y_L is stretched back, so that maps go in
    and come out in one piece. The map is pooled to the stride first, as the authors do. Where no
    whole channel is left for the low part, it is a plain convolution. Parameters K²·C_in·C_out,
    MACs for even sizes that times H'·W'·[1 - 3/4·alpha·(2 - alpha)].

    Args:
        kernel_size: Odd side length K.
        alpha: Share of the channels at half resolution, at least 0 and less than 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        alpha: Annotated[float, SHARE] = 0.25,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, same_padding(kernel_size)
        low_in, low_out = int(alpha * in_channels), int(alpha * out_channels)
        self.plain = not (low_in and low_out)
        self.high_in, self.high_out = in_channels - low_in, out_channels - low_out
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, self.padding, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return self.conv(x)
        x = pool(x, self.stride)
        height, width = x.shape[2:]
        high, low = x[:, : self.high_in], pool(x[:, self.high_in :], 2)
        to_high, to_low = self.conv.weight.tensor_split((self.high_out,))

        def conv(maps: Tensor, kernel: Tensor) -> Tensor:
            return F.conv2d(maps, kernel, padding=self.padding)

        def up(maps: Tensor) -> Tensor:
            return F.interpolate(maps, scale_factor=2.0, mode="nearest")[..., :height, :width]

        from_high, from_low = to_high.tensor_split((self.high_in,), 1)
        high_out = conv(high, from_high) + up(conv(low, from_low))
        low_out = conv(torch.cat([pool(high, 2), low], 1), to_low)
        return torch.cat([high_out, up(low_out)], 1)
