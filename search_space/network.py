"""The stand-alone network of an architecture: plain modules, timm's conventions."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import DropPath, SelectAdaptivePool2d, create_classifier
from timm.layers.helpers import get_device_dtype
from torch import Tensor, nn
from torch.nn import functional as F

from configs.space import Space, Stem
from search_space.blocks import build_block, with_norm
from search_space.layers import conv_norm, initialize
from search_space.registry import build_operator
from search_space.space import Architecture, SearchSpace


def build_stem(stem: Stem, in_channels: int) -> nn.Sequential:
    """Build the layers before the first stage; see `configs.space.Stem`."""
    if stem.kind == "resnet":
        layers = conv_norm(in_channels, stem.width, 7, min(stem.stride, 2))
    elif stem.kind == "rednet":
        half = max(stem.width // 2, 1)
        involution = build_operator("involution", half, half, 1, kernel_size=3)
        layers = nn.Sequential(
            conv_norm(in_channels, half, 3, min(stem.stride, 2)),
            nn.Sequential(with_norm(involution, half), nn.ReLU(inplace=True)),
            conv_norm(half, stem.width, 3),
        )
    else:
        layers = conv_norm(in_channels, stem.width, 3, min(stem.stride, 2))
    if stem.stride == 4:
        layers.append(nn.MaxPool2d(3, 2, 1))
    return layers


def head_features(config: Space) -> int:
    """Return the number of channels that reach the classifier."""
    return config.head_width or config.stages[-1].width


def build_head(config: Space) -> nn.Module:
    """Build the 1x1 convolution between the last stage and the pooling, if there is one."""
    if not config.head_width:
        return nn.Identity()
    return conv_norm(config.stages[-1].width, config.head_width)


class Network(nn.Module):
    """Stem, stages, head: (B, in_chans, H, W) images to (B, num_classes) logits.

    Follows timm: `forward_features` gives the (B, C, h, w) map, `forward_head` pools and
    classifies, `reset_classifier` changes the classes (0 removes the classifier), `feature_info`
    describes the stages for `features_only`.

    Args:
        in_chans: Channels of the images; None is the space's own.
        global_pool: ``avg``, ``max`` or another of timm's poolings; "" leaves the map as it is, and
            the classifier unused.
        drop_rate: Probability of dropout before the classifier, in training.
        drop_path_rate: Probability with which the last layer's block is left out for an image, in
            training; that of the layers before it rises linearly from 0
            (https://arxiv.org/abs/1603.09382).
    """

    global_pool: SelectAdaptivePool2d
    fc: nn.Module

    def __init__(
        self,
        space: SearchSpace,
        architecture: Architecture,
        num_classes: int,
        in_chans: int | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        space.validate(architecture)
        config = space.config
        self.num_features = head_features(config)
        self.in_chans = config.in_channels if in_chans is None else in_chans
        self.drop_rate = drop_rate
        self.stem = build_stem(config.stem, self.in_chans)
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        reduction = config.stem.stride
        for index, stage in enumerate(config.stages):
            blocks = nn.Sequential()
            for depth, (layer, name) in enumerate(zip(space.layers, architecture)):
                if layer.stage != index:
                    continue
                if space.is_skip(name) and layer.keeps_shape:
                    blocks.append(nn.Identity())
                    continue
                share = space.width_of(name)
                block = build_block(stage, layer.in_channels, layer.stride, share)
                if space.is_skip(name):
                    blocks.append(block.skipped())
                    continue
                block.operator = block.candidate(partial(space.build_candidate, name))
                if drop_path_rate:
                    last = max(len(space.layers) - 1, 1)
                    block.drop_path = DropPath(drop_path_rate * depth / last)
                blocks.append(block)
            self.stages.append(blocks)
            reduction *= stage.stride
            self.feature_info.append(
                {"num_chs": stage.width, "reduction": reduction, "module": f"stages.{index}"}
            )
        self.head = build_head(config)
        initialize(self)
        self.reset_classifier(num_classes, global_pool)

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers in their order; a skip is an identity."""
        return [block for stage in self.stages.children() for block in stage.children()]

    @property
    def parts(self) -> list[nn.Module]:
        """The network as a chain, but for dropout: stem, a part a layer, and all that follows."""
        classifier = [] if self.global_pool.is_identity() else [self.fc]
        return [self.stem, *self.blocks, nn.Sequential(self.head, self.global_pool, *classifier)]

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm asks for it."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one for another number of classes; 0 leaves pooled features.

        The new one has the network's device and type.

        Args:
            global_pool: One of timm's poolings; None keeps the present one.

        Raises:
            ValueError: timm has no such pooling.
        """
        kind = self.global_pool.pool_type if global_pool is None else global_pool
        try:
            pool, classifier = create_classifier(
                self.num_features, num_classes, pool_type=kind, **get_device_dtype(self)
            )
        except AssertionError:
            raise ValueError(
                f"global_pool: {kind!r} is not possible; choose avg, max, avgmax, catavgmax or ''"
            ) from None
        self.num_classes, self.global_pool, self.fc = num_classes, pool, classifier
        self.head_hidden_size = self.num_features * pool.feat_mult()

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the map (B, num_features, h, w) before the pooling."""
        return self.head(self.stages(self.stem(images)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a map, or the pooled features before the classifier."""
        features = self.global_pool(features)
        features = F.dropout(features, self.drop_rate, self.training)
        return features if pre_logits or self.global_pool.is_identity() else self.fc(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def build_network(
    space: SearchSpace, architecture: Architecture, num_classes: int | None = None
) -> Network:
    """Build the stand-alone network of an architecture, freshly initialised.

    Args:
        num_classes: Instead of the space's own; 0 leaves the classifier out.

    Raises:
        UserError: The architecture is not in the space.
    """
    return Network(space, architecture, space.num_classes if num_classes is None else num_classes)
