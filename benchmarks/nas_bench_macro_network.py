"""The networks of NAS-Bench-Macro (Su et al., CVPR 2021, https://arxiv.org/abs/2103.11922).

Eight searchable layers in stages of 2, 3 and 3, at 64, 128 and 256 channels; the first layer of a
stage halves the image. Each layer is the identity (``0``; a strided 1x1 convolution with norm where
the shape changes), an inverted residual with a 3x3 kernel and 3-fold expansion (``1``) or with a
5x5 kernel and 6-fold expansion (``2``). The tests compare parameters and FLOPs with the published
table.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_space.layers import conv_norm

STAGES = ((64, 2), (128, 3), (256, 3))  # channels, layers
KERNEL_AND_EXPANSION = {"1": (3, 3), "2": (5, 6)}
STEM, HEAD = 32, 1280


class MacroNetwork(nn.Module):
    """One architecture: (B, 3, H, W) images to (B, classes) logits.

    Args:
        key: One digit a layer, such as ``02012100``.
    """

    def __init__(self, key: str, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_norm(3, STEM, 3)
        self.stages = nn.Sequential()
        channels, choices = STEM, iter(key)
        for width, depth in STAGES:
            blocks = nn.Sequential()
            for position in range(depth):
                blocks.append(build_layer(next(choices), channels, width, 1 if position else 2))
                channels = width
            self.stages.append(blocks)
        self.head = conv_norm(channels, HEAD)
        self.fc = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(self.stages(self.stem(images)))
        return self.fc(features.mean((2, 3)))


def build_layer(choice: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build the module of one digit."""
    if choice == "0":
        if stride == 1 and in_channels == out_channels:
            return nn.Identity()
        return conv_norm(in_channels, out_channels, 1, stride, act=False)
    return InvertedResidual(in_channels, out_channels, stride, *KERNEL_AND_EXPANSION[choice])


class InvertedResidual(nn.Module):
    """1x1 widening, depthwise KxK, 1x1 narrowing; a shortcut where the shape is kept."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kernel_size: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        depthwise = nn.Conv2d(
            hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden, bias=False
        )
        self.expand = conv_norm(in_channels, hidden)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
        self.reduce = conv_norm(hidden, out_channels, act=False)
        self.keeps_shape = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.reduce(self.depthwise(self.expand(x)))
        return out + x if self.keeps_shape else out
