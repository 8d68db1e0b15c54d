"""The convolution with mixed kernels as one node of our own, for runtimes with an extension."""

from __future__ import annotations

from timm.layers import CondConv2d
from torch import Tensor

from search_space.kernels import own_nodes
from search_space.kernels.expert_conv import cpu

NODE = "ExpertConvolution"


def has_node(conv: CondConv2d) -> bool:
    """Return whether the kernel computes this convolution, and faster than a standard graph.

    Unlike in PyTorch, that is for one image too, since there the kernels are packed once and for
    all. With fewer output channels than the kernel works on at once a standard graph is faster.
    """
    return (
        conv.groups == 1
        and conv.out_channels >= cpu.TILE
        and conv.kernel_size in {(k, k) for k in cpu.KERNEL_SIZES}
        and conv.stride in ((1, 1), (2, 2))
        and conv.dilation == (1, 1)
    )


def node(conv: CondConv2d, x: Tensor, weights: Tensor) -> Tensor:
    """Return the node; see `expert_convolution` for the shapes."""
    experts = conv.weight.view(conv.num_experts, *conv.weight_shape)
    stride, padding = conv.stride[0], conv.padding[0]
    shape = cpu.output_shape(x, experts, weights, stride, padding)
    return own_nodes.node(
        NODE, (x, experts, weights), {"stride": stride, "padding": padding}, shape
    )
