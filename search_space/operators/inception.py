"""Inception: parallel branches of different kernel size, concatenated.

Paper: Going Deeper with Convolutions (https://arxiv.org/abs/1409.4842).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.layers import conv_norm
from search_space.registry import register_operator


@register_operator("inception")
class Inception(nn.Module):
    """Y = [W1 * pool(X), W3 * R3(X), W5 * R5(X), Wp * max pool(X)], R = ReLU(BN(1x1)).

    The branches give c3 = C_out//2, c1 = C_out//4, c5 = C_out//8 channels and the pooled one, cp,
    the rest; the 1x1 convolutions in front narrow to r3 = max(3·C_out//8, 8) and
    r5 = max(C_out//16, 8). Parameters C_in·(c1 + r3 + r5 + cp) + 9·r3·c3 + 25·r5·c5 + 2·(r3 + r5);
    MACs [C_in·(c1 + cp) + 9·r3·c3 + 25·r5·c5]·H'·W' + C_in·(r3 + r5)·H·W.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        c1, c3, c5 = out_channels // 4, out_channels // 2, out_channels // 8
        cp = out_channels - c1 - c3 - c5
        average = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        largest = nn.MaxPool2d(3, stride, 1)

        def reduced(kernel_size: int, width: int, channels: int) -> nn.Module:
            conv = nn.Conv2d(width, channels, kernel_size, stride, kernel_size // 2, bias=False)
            return nn.Sequential(*conv_norm(in_channels, width), conv)

        branches = {
            "point": (c1, lambda: _then_point(average, in_channels, c1)),
            "three": (c3, lambda: reduced(3, max(3 * out_channels // 8, 8), c3)),
            "five": (c5, lambda: reduced(5, max(out_channels // 16, 8), c5)),
            "pooled": (cp, lambda: _then_point(largest, in_channels, cp)),
        }
        # with fewer than 8 channels some branches have none
        self.branches = nn.ModuleDict(
            {name: build() for name, (channels, build) in branches.items() if channels}
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


def _then_point(pooling: nn.Module, in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(pooling, nn.Conv2d(in_channels, out_channels, 1, bias=False))
