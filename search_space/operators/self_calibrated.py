"""Self-calibrated convolution: half of the channels are gated by their own wider view.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions (CVPR 2020,
https://openaccess.thecvf.com/content_CVPR_2020/html/Liu_Improving_Convolutional_Networks_With_Self-Calibrated_Convolutions_CVPR_2020_paper.html).
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, pool, same_padding
from search_space.options import KernelSize, between
from search_space.registry import register_operator


@register_operator("self_calibrated")
class SelfCalibratedConv2d(nn.Module):
    """Y = [K4 * (BN(K3 * A) sigmoid(A + up(BN(K2 * pool(A))))), K1 * B] with X = [A, B].

    K2 sees the map pooled by r, K4 and K1 carry the stride; stretching is nearest-neighbour, as in
    the authors' code. With a and b channels in A and B and a' and b' in their outputs (halves of
    C_in and C_out): parameters K²·(2·a² + a·a' + b·b') + 4·a, MACs
    K²·[a²·(H·W + H·W/r²) + (a·a' + b·b')·H'·W'].

    Args:
        kernel_size: Odd side length of all four kernels.
        reduction: Factor r by which the wider view is pooled.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        reduction: Annotated[int, between(1, 999)] = 4,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        b, b_out = in_channels // 2, out_channels // 2
        if not (b and b_out):  # a single channel isn't divided
            b = b_out = 0
        a, a_out = in_channels - b, out_channels - b_out
        self.split = (a, b)

        def conv(ins: int, outs: int, step: int = 1) -> nn.Conv2d:
            padding = same_padding(kernel_size)
            return nn.Conv2d(ins, outs, kernel_size, step, padding, bias=False)

        self.wide = nn.Sequential(conv(a, a), BatchNorm2d(a))  # K2
        self.near = nn.Sequential(conv(a, a), BatchNorm2d(a))  # K3
        self.calibrated = conv(a, a_out, stride)  # K4
        self.plain = conv(b, b_out, stride) if b else None  # K1

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split(self.split, 1)
        wide = F.interpolate(self.wide(pool(a, self.reduction)), a.shape[2:])
        out = self.calibrated(self.near(a) * (a + wide).sigmoid())
        return out if self.plain is None else torch.cat([out, self.plain(b)], 1)
