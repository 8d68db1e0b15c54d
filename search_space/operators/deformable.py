"""Deformable convolution: every pixel chooses where its kernel looks.

Papers: Deformable Convolutional Networks (https://arxiv.org/abs/1703.06211), Deformable ConvNets
v2 (https://arxiv.org/abs/1811.11168).
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from search_space.layers import at_least_float32, full_precision, same_padding
from search_space.options import KernelSize
from search_space.registry import register_operator


@register_operator("deformable")
class DeformableConv2d(nn.Module):
    """Y[p] = sum over u of W[u] X(stride p + u + d[p, u]) m[p, u], X bilinear, zero outside.

    Offsets d and, when `modulated` (v2), the mask m = 2·sigmoid come from a K×K convolution that
    starts at zero, so the operator starts as the plain convolution of W. With t = 2·K² (v1) or
    3·K² (v2): parameters K²·C_in·C_out + t·(K²·C_in + 1), MACs
    (K²·C_in·C_out + t·K²·C_in + 4·K²·C_in)·H'·W', the last for the bilinear samples.

    Args:
        kernel_size: Odd side length K.
        modulated: Also weigh every sample (v2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.modulated = kernel_size, stride, modulated
        padding, taps = same_padding(kernel_size), kernel_size**2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.offset = nn.Conv2d(
            in_channels, taps * (3 if modulated else 2), kernel_size, stride, padding
        )
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):  # eight bits are too few for coordinates
            image = x.to(self.offset.weight.dtype)
            learned = at_least_float32(self.offset(image))
            offset = learned[:, : 2 * self.kernel_size**2]
            mask = 2 * learned[:, offset.shape[1] :].sigmoid() if self.modulated else None
            out = deform_conv2d(
                at_least_float32(image), offset, at_least_float32(self.conv.weight),
                stride=self.stride, padding=self.conv.padding, mask=mask,  # type: ignore[arg-type]
            )  # fmt: skip
        return out.to(x.dtype)
