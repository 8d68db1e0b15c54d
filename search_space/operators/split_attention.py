"""Split attention: grouped convolutions of one size, weighted per channel by attention.

Paper: ResNeSt: Split-Attention Networks (https://arxiv.org/abs/2004.08955).
"""

from __future__ import annotations

from timm.layers import SplitAttn
from torch import Tensor, nn

from search_space.layers import BatchNorm2d, largest_divisor, same_padding
from search_space.options import KernelSize
from search_space.registry import register_operator


class SplitAttention(SplitAttn):
    """timm's, with splits of a known size: its own forward infers one, which no empty batch has."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.bn0(self.conv(x)))
        splits = x.unflatten(1, (self.radix, x.shape[1] // self.radix))
        pooled = splits.sum(1).mean((2, 3), keepdim=True)
        logits = self.fc2(self.act1(self.bn1(self.fc1(pooled))))
        if self.radix == 1:
            return x * logits.sigmoid()
        attention = logits.unflatten(1, splits.shape[1:3]).softmax(1)
        return (splits * attention).sum(1)


@register_operator("split_attention")
def split_attention(
    in_channels: int, out_channels: int, stride: int, kernel_size: KernelSize = 3, radix: int = 2
) -> nn.Module:
    """Y = sum over r of a_r U_r, U = ReLU(BN(conv X)), a = softmax over r of FC(mean of sum U_r).

    With R splits and t = max(32, C_in·R/4), rounded to a multiple of 8: parameters
    K²·C_in·C_out + 2·R·C_out + C_out·t + t + 2·t + t·R·C_out + R·C_out, MACs
    K²·C_in·C_out·H'·W' + C_out·t·(1 + R). A single split is gated by a sigmoid.

    Args:
        kernel_size: Side length K.
        radix: How many splits R; lowered to the largest divisor of C_in.
    """
    return SplitAttention(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        same_padding(kernel_size),
        radix=largest_divisor(radix, in_channels),
        norm_layer=BatchNorm2d,
    )
