"""The way in which a mixture of kernels is convolved: native, grouped, or mixed afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import CondConv2d
from torch import Tensor

from search_space.kernels import own_nodes
from search_space.kernels.expert_conv import onnx
from search_space.kernels.expert_conv.op import expert_convolution, is_native


def mix_experts(conv: CondConv2d, x: Tensor, weights: Tensor) -> Tensor:
    """Compute Y_b = (sum over k of weights[b, k] W_k) * X_b, without a loop over the batch.

    On the CPU a native kernel mixes and convolves at once, where it fits. Elsewhere either the
    kernels are mixed, and the batch is folded into the groups of one convolution (a kernel per
    image in memory), or all kernels are applied and their outputs mixed (`experts` times the
    MACs). Values are the same. The last needs less memory where K²·C_in/g > experts·H'·W', and
    takes less time from about four times that on: on two CPU cores at batch 64, 256 channels and
    4x4 pixels (36 times) 25 ms instead of 98, at 128 channels and 14x14 pixels (1.5 times) 55
    instead of 36.

    Args:
        conv: Holds the kernels; without bias.
        x: (B, C_in, H, W).
        weights: (B, experts).
    """
    batch = x.shape[0]
    if own_nodes.is_kept() and x.dtype is torch.float32 and onnx.has_node(conv):
        return onnx.node(conv, x, weights)
    if torch.compiler.is_exporting() and not isinstance(batch, int):
        return mix_outputs(conv, x, weights)  # a graph for any batch cannot fold it into groups
    if batch == 0:
        return mix_outputs(conv, x, weights)  # groups cannot be none
    if batch == 1:  # an ordinary convolution
        kernel = (weights @ conv.weight).view(conv.weight_shape)
        return F.conv2d(x, kernel, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    if is_native(x, conv.kernel_size, conv.stride, conv.groups):
        kernels = conv.weight.view(conv.num_experts, *conv.weight_shape)
        padding = conv.padding[0]
        return expert_convolution(x, kernels, weights, conv.stride[0], padding)
    rows, columns = (-(-side // conv.stride[0]) for side in x.shape[2:])
    taps = conv.weight.shape[1] // conv.out_channels  # K² C_in/g
    depthwise = conv.groups == conv.in_channels
    if depthwise or taps <= 4 * conv.num_experts * rows * columns:
        return conv(x, weights)
    return mix_outputs(conv, x, weights)


def mix_outputs(conv: CondConv2d, x: Tensor, weights: Tensor) -> Tensor:
    """Apply all kernels, then mix their outputs."""
    count, width = weights.shape[1], conv.out_channels // conv.groups
    kernels = conv.weight.reshape(count, conv.groups, width, -1, *conv.kernel_size)
    kernels = kernels.transpose(0, 1).flatten(0, 2)  # group-major, as a grouped convolution wants
    out = F.conv2d(x, kernels, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    out = out.unflatten(1, (conv.groups, count, width))
    return (out * weights[:, None, :, None, None, None]).sum(2).flatten(1, 2)
