"""Dynamic convolution: every image is convolved with its own mixture of kernels.

Paper: Dynamic Convolution: Attention over Convolution Kernels
(https://arxiv.org/abs/1912.03458).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import CondConv2d
from torch import Tensor, nn

from search_space.kernels.expert_conv import mix_experts
from search_space.layers import at_least_float32, largest_divisor, same_padding
from search_space.options import Experts, KernelSize
from search_space.registry import register_operator

START_TEMPERATURE = 30.0  # near-uniform attention, so that all kernels learn at first
ANNEALED_AT = 0.5  # share of the training after which the temperature is 1


@register_operator("dynamic")
class DynamicConv2d(nn.Module):
    """Y = (sum over k of a_k W_k) * X with a = softmax(router(mean of X) / temperature).

    With n experts, g groups and h = max(C_in/reduction, 4): parameters
    n·K²·C_in·C_out/g + C_in·h + h + h·n + n; MACs (K²·C_in·C_out/g)·(H'·W' + n) + C_in·h + h·n.

    The temperature falls from 30 to 1 over the first half of a training (`anneal`); it is a
    buffer, so it is saved with the weights and changing it never triggers a recompilation.

    Args:
        kernel_size: Side length K of the kernels.
        experts: How many kernels are mixed.
        reduction: Narrowing of the router.
        groups: Lowered to the largest common divisor of the channels.
        depthwise: One kernel per channel; a 1x1 convolution follows where the channels differ.
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        experts: Experts = 4,
        reduction: int = 4,
        groups: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        width = in_channels if depthwise else out_channels
        groups = in_channels if depthwise else largest_divisor(groups, in_channels, out_channels)
        hidden = max(in_channels // reduction, 4)
        self.router = nn.Sequential(
            nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, experts)
        )
        self.experts = CondConv2d(
            in_channels, width, kernel_size, stride, same_padding(kernel_size),
            groups=groups, num_experts=experts,
        )  # fmt: skip
        self.project: nn.Module = nn.Identity()
        if width != out_channels:
            self.project = nn.Conv2d(width, out_channels, 1, bias=False)
        self.register_buffer("temperature", torch.tensor(START_TEMPERATURE))

    def anneal(self, progress: float) -> None:
        """Set the temperature for a training of which the share `progress` is done."""
        remaining = max(0.0, 1.0 - progress / ANNEALED_AT)
        self.temperature.fill_(1.0 + (START_TEMPERATURE - 1.0) * remaining)

    def forward(self, x: Tensor) -> Tensor:
        logits = at_least_float32(self.router(x.mean((2, 3))))
        attention = F.softmax(logits / self.temperature.float(), dim=1).to(x.dtype)
        return self.project(mix_experts(self.experts, x, attention))
