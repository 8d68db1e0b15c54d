"""A network that a search found as the backbone of a detector: one training step of a RetinaNet.

    python examples/detect_with_a_hybrid.py

Any network of Evolute is a timm model, with `features_only=True` one that gives its feature maps:
here RedNet-26, in which every 3x3 convolution is an involution. Put the ``architecture.yaml`` of
your own in its place: ``timm.create_model("evolute", architecture=FILE, features_only=True)``.
"""

from __future__ import annotations

from collections import OrderedDict

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

import evolute.timm_models  # noqa: F401  (makes timm know our models)

CLASSES, WIDTH = 3, 64


class Pyramid(nn.Module):
    """The last three feature maps of a backbone, brought to one width: what RetinaNet looks at."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, WIDTH
        self.pyramid = FeaturePyramidNetwork(backbone.feature_info.channels()[-3:], WIDTH)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(images)[-3:]
        return self.pyramid(OrderedDict((str(level), each) for level, each in enumerate(maps)))


def main() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("evolute_rednet26", features_only=True)
    print(
        "strides", backbone.feature_info.reduction(), "channels", backbone.feature_info.channels()
    )
    pyramid = Pyramid(backbone)
    sizes = tuple((size,) for size in (16, 32, 64))  # of the anchors, one a feature map
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    detector = RetinaNet(pyramid, CLASSES, anchor_generator=anchors, min_size=96, max_size=96)
    image = torch.rand(3, 96, 96)
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    losses = detector.train()([image], [target])
    sum(losses.values()).backward()
    optimizer.step()
    print({name: round(loss.item(), 3) for name, loss in losses.items()})
    found = detector.eval()([image])[0]
    print(f"{len(found['boxes'])} boxes after one step")


if __name__ == "__main__":
    main()
