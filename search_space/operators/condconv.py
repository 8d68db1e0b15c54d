"""CondConv: kernels that are mixed for every image, each switched on or off by itself.

Paper: CondConv: Conditionally Parameterized Convolutions for Efficient Inference
(https://arxiv.org/abs/1904.04971).
"""

from __future__ import annotations

from timm.layers import CondConv2d
from torch import Tensor, nn

from search_space.kernels.expert_conv import mix_experts
from search_space.layers import at_least_float32, largest_divisor, same_padding
from search_space.options import Experts, KernelSize
from search_space.registry import register_operator


@register_operator("condconv")
class ConditionalConv2d(nn.Module):
    """Y = (sum over k of a_k W_k) * X with a = sigmoid(R mean of X).

    With n experts and g groups: parameters n·K²·C_in·C_out/g + n·C_in + n, MACs
    (K²·C_in·C_out/g)·(H'·W' + n) + n·C_in.

    Args:
        kernel_size: Side length K of the kernels.
        experts: How many kernels are mixed.
        groups: Lowered to the largest common divisor of the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel_size: KernelSize = 3,
        experts: Experts = 8,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.router = nn.Linear(in_channels, experts)
        self.experts = CondConv2d(
            in_channels, out_channels, kernel_size, stride, same_padding(kernel_size),
            groups=largest_divisor(groups, in_channels, out_channels), num_experts=experts,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        weights = at_least_float32(self.router(x.mean((2, 3)))).sigmoid()
        return mix_experts(self.experts, x, weights.to(x.dtype))
