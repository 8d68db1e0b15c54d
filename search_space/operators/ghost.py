"""Ghost module: half of the maps are convolved, the rest derived from them by cheap kernels.

Paper: GhostNet: More Features from Cheap Operations (https://arxiv.org/abs/1911.11907).
"""

from __future__ import annotations

from typing import Annotated

from timm.models.ghostnet import GhostModule
from torch import nn

from search_space.layers import BatchNorm2d
from search_space.options import KernelSize, between
from search_space.registry import register_operator


@register_operator("ghost")
def ghost(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: KernelSize = 3,
    ratio: Annotated[int, between(2, 999)] = 2,
    cheap_kernel_size: KernelSize = 3,
) -> nn.Module:
    """Concatenation of m = ceil(C_out/ratio) convolved maps and their depthwise images.

    Parameters C_in·K²·m + d²·m·(ratio - 1) + 2·m·ratio (batch norms); MACs of the convolutions
    times H'·W'. No activation inside: the block behind it has one.

    Args:
        kernel_size: Side length K of the primary convolution.
        ratio: Total over convolved maps, at least 2 (1 would be a convolution).
        cheap_kernel_size: Odd side length d of the depthwise kernels.
    """
    module = GhostModule(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        ratio=ratio,
        dw_size=cheap_kernel_size,
        stride=stride,
        act_layer=nn.Identity,
    )
    for part in (module.primary_conv, module.cheap_operation):
        channels = part[0].out_channels  # type: ignore[union-attr]
        part[1] = BatchNorm2d(channels)  # type: ignore[arg-type]  # trains at batch 1 on 1x1 maps
    return module
