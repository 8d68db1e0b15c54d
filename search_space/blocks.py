"""The blocks around a searched operator: the layer's own convolutions, norms and shortcut.

A block is shared by all candidates of a layer; an operator and the batch norm behind it belong to
one candidate (`with_norm`). The stand-alone network puts its only operator into the block, the
supernet passes one of several to `Block.around`. A user adds a block in a file of their own::

    @register_block("plain")
    class Plain(Block): ...

and names the file under ``plugins:`` in the configuration. What a block promises:

- ``__init__(in_channels, out_channels, width, stride)`` makes its own layers, without an operator:
  ``self.operator = nn.Identity()`` holds the place, in the order in which layers are initialised.
- `Block.operator_width` says how many channels an operator works on, the ``width`` above; it maps
  them to as many, at the layer's stride. A candidate may ask for a share of them: its block is then
  built with that width. In the supernet it takes the first channels of the widest block's layers.
- `Block.around` maps (B, in_channels, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride)),
  odd sizes and batch 1 included. It calls the operator that it is given, never ``self.operator``,
  and leaves its input as it is: a search may use it for another architecture.
- It puts what it adds to a shortcut through ``self.drop_path``: the identity, or stochastic depth.
- All state is in parameters and buffers: they are what a network inherits from the supernet.
- `Block.skipped` is what is left of a skipped layer where the shape changes.
- `Block.whole_layer` says that a candidate is the whole layer.
- A method ``init_weights`` is called after the usual initialisation, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from timm.models.ghostnet import GhostModule
from torch import Tensor, nn
from torch.nn import functional as F

from configs.registry import Registry
from configs.space import Stage
from search_space.layers import BatchNorm2d, conv_norm, pool


class Block(nn.Module):
    """A layer around an operator; the module's docstring says what a subclass promises."""

    operator: nn.Module
    whole_layer: ClassVar[bool] = False

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.width, self.stride = width, stride
        self.drop_path: nn.Module = nn.Identity()

    @staticmethod
    def operator_width(in_channels: int, out_channels: int, expansion: float) -> int:
        """Return the number of channels on which a layer's operators work."""
        raise NotImplementedError

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        """Apply the block's own layers around any operator."""
        raise NotImplementedError

    def candidate(self, build: BuildOperator) -> nn.Module:
        """Return an operator for this block with what belongs to it: its batch norm.

        Args:
            build: Called with in_channels, out_channels and stride.
        """
        return with_norm(build(self.width, self.width, self.stride), self.width)

    def skipped(self) -> nn.Module:
        """Return what takes the place of a skipped layer that changes the shape."""
        return Shortcut(self.in_channels, self.out_channels, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.around(x, self.operator)


BuildOperator = Callable[[int, int, int], nn.Module]

BLOCKS: Registry[type[Block]] = Registry("block")
register_block = BLOCKS.register


def with_norm(operator: nn.Module, channels: int) -> nn.Sequential:
    """Put the batch norm behind an operator that it owns: operators differ tenfold in scale."""
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


@register_block("bottleneck")
class Bottleneck(Block):
    """1x1 narrowing, operator, 1x1 widening, shortcut, ReLU (ResNet, RedNet).

    Papers: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/2103.06255; the pooled shortcut
    is ResNet-D's (https://arxiv.org/abs/1812.01187).
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, width, stride)
        self.reduce = conv_norm(in_channels, width)
        self.operator = nn.Identity()
        self.expand = conv_norm(width, out_channels, act=False)
        self.shortcut = Shortcut(in_channels, out_channels, stride)

    @staticmethod
    def operator_width(in_channels: int, out_channels: int, expansion: float) -> int:
        return max(round(out_channels / expansion), 1)

    def init_weights(self) -> None:
        """Start the block as its shortcut (https://arxiv.org/abs/1706.02677, section 5.1).

        Involution multiplies the map with itself, in effect: without trained norms, a deep
        network of them would overflow.
        """
        nn.init.zeros_(self.expand[1].weight)  # type: ignore[arg-type]

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        out = self.expand(F.relu(operator(self.reduce(x)), inplace=True))
        return F.relu(self.drop_path(out) + self.shortcut(x), inplace=True)


@register_block("inverted_residual")
class InvertedResidual(Block):
    """1x1 widening, operator on the wide maps, linear 1x1 narrowing, shortcut where shapes allow.

    Paper: https://arxiv.org/abs/1801.04381.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, width, stride)
        self.residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = conv_norm(in_channels, width)
        self.operator = nn.Identity()
        self.reduce: nn.Module = conv_norm(width, out_channels, act=False)

    @staticmethod
    def operator_width(in_channels: int, out_channels: int, expansion: float) -> int:
        return max(round(in_channels * expansion), 1)

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        out = self.reduce(F.relu(operator(self.expand(x)), inplace=True))
        return x + self.drop_path(out) if self.residual else out


@register_block("ghost_residual")
class GhostResidual(InvertedResidual):
    """An inverted residual whose 1x1 convolutions are ghost modules, half as large each.

    Paper: https://arxiv.org/abs/1911.11907; its squeeze-and-excitation, and its shortcuts where the
    shape changes, are left out.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, width, stride)
        self.expand = GhostModule(in_channels, width)
        self.reduce = GhostModule(width, out_channels, act_layer=nn.Identity)


@register_block("none")
class NoBlock(Block):
    """Nothing: the candidate is the whole layer, its norms and its residual included.

    A skipped layer that changes the shape is a strided 1x1 convolution with its norm, as in
    NAS-Bench-Macro (https://arxiv.org/abs/2103.11922).
    """

    whole_layer = True

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, width, stride)
        self.operator = nn.Identity()

    @staticmethod
    def operator_width(in_channels: int, out_channels: int, expansion: float) -> int:
        return out_channels

    def candidate(self, build: BuildOperator) -> nn.Module:
        return build(self.in_channels, self.out_channels, self.stride)

    def skipped(self) -> nn.Module:
        return conv_norm(self.in_channels, self.out_channels, 1, self.stride, act=False)

    def around(self, x: Tensor, operator: nn.Module) -> Tensor:
        return operator(x)


def build_block(stage: Stage, in_channels: int, stride: int, share: float = 1.0) -> Block:
    """Build a block without its operator.

    Args:
        share: Of the operator's channels, `width` in a candidate.
    """
    kind = BLOCKS[stage.block]
    width = kind.operator_width(in_channels, stage.width, stage.expansion)
    return kind(in_channels, stage.width, max(round(width * share), 1), stride)
