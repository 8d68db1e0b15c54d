"""The blocks that stand around a searched operator.

A block's `around` applies its own layers around any operator: the stand-alone network passes the
one it holds, the supernet one of its candidates. Pointwise convolutions are thereby shared between
candidates; the batch norm behind an operator is not (`with_norm`).
"""

from __future__ import annotations

from timm.models.ghostnet import GhostModule
from torch import Tensor, nn
from torch.nn import functional as F

from configs.space import Stage
from search_space.layers import BatchNorm2d, conv_norm, pool


def with_norm(operator: nn.Module, channels: int) -> nn.Sequential:
    """An operator and the batch norm it owns: operators differ tenfold in output scale."""
    return nn.Sequential(operator, BatchNorm2d(channels))


class Shortcut(nn.Module):
    """Average pooling and a 1x1 convolution where the shape changes, else the identity."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.project: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.project = conv_norm(in_channels, out_channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(pool(x, self.stride))


class Bottleneck(nn.Module):
    """1x1 narrowing, operator, 1x1 widening, shortcut, ReLU (ResNet, RedNet).

    Papers: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/2103.06255; the pooled shortcut
    is ResNet-D's (https://arxiv.org/abs/1812.01187).
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = conv_norm(in_channels, width)
        self.operator: nn.Module = nn.Identity()
        self.expand = conv_norm(width, out_channels, act=False)
        self.shortcut = Shortcut(in_channels, out_channels, stride)

    def init_weights(self) -> None:
        """The block starts as its shortcut (https://arxiv.org/abs/1706.02677, section 5.1).

        Involution multiplies the map with itself, in effect: without trained norms, a deep
        network of them would overflow.
        """
        nn.init.zeros_(self.expand[1].weight)  # type: ignore[arg-type]

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        out = self.expand(F.relu(operator(self.reduce(x)), inplace=True))
        return F.relu(out + self.shortcut(x), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.around(x, self.operator)


class InvertedResidual(nn.Module):
    """1x1 widening, operator on the wide maps, linear 1x1 narrowing, shortcut where shapes allow.

    Paper: https://arxiv.org/abs/1801.04381.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = conv_norm(in_channels, width)
        self.operator: nn.Module = nn.Identity()
        self.reduce: nn.Module = conv_norm(width, out_channels, act=False)

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        out = self.reduce(F.relu(operator(self.expand(x)), inplace=True))
        return x + out if self.residual else out

    def forward(self, x: Tensor) -> Tensor:
        return self.around(x, self.operator)


class GhostResidual(InvertedResidual):
    """An inverted residual whose 1x1 convolutions are ghost modules, half as large each.

    Paper: https://arxiv.org/abs/1911.11907; its squeeze-and-excitation, and its shortcuts where the
    shape changes, are left out.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, width, stride)
        self.expand = GhostModule(in_channels, width)
        self.reduce = GhostModule(width, out_channels, act_layer=nn.Identity)


Block = Bottleneck | InvertedResidual
BLOCKS: dict[str, type[Block]] = {
    "bottleneck": Bottleneck,
    "inverted_residual": InvertedResidual,
    "ghost_residual": GhostResidual,
}


def operator_width(stage: Stage, in_channels: int) -> int:
    """Channels on which a stage's operators work."""
    if stage.block == "bottleneck":
        return max(round(stage.width / stage.expansion), 1)
    return max(round(in_channels * stage.expansion), 1)


def build_block(stage: Stage, in_channels: int, stride: int) -> Block:
    """A block without its operator."""
    width = operator_width(stage, in_channels)
    return BLOCKS[stage.block](in_channels, stage.width, width, stride)
