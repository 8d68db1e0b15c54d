"""The operator ``evolute::expert_convolution``: a convolution with mixed kernels on the CPU.

Only float32 on the CPU; `is_native` says where it takes the place of the grouped convolution that
everything else uses (`search_space.kernels.expert_conv.mixing`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from search_space.kernels.backends import choose_backend, require_cpu
from search_space.kernels.derivatives import register_derivatives
from search_space.kernels.expert_conv import cpu, grouped
from search_space.kernels.memory_format import dense, is_channels_last

FEWEST_IMAGES = 16  # packing the experts pays from about here on


@functools.cache
def active_backend(device: torch.device | str = "cpu") -> str:
    """Return which implementation runs on a device: ``native`` or ``grouped``.

    The native kernel on the CPU (compiled now if this is its first use), and torch's own
    convolutions elsewhere or where it cannot be had; ``EVOLUTE_EXPERT_CONV`` forces a choice
    (`choose_backend`). Decided once per process and device.

    Raises:
        UserError: The environment variable names no implementation.
    """
    kernels = {"native": _try_native}
    return choose_backend("expert_conv", torch.device(device).type, kernels, "grouped")


def _try_native(kind: str) -> None:
    require_cpu(kind)
    cpu.library()


def is_native(
    input: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], groups: int
) -> bool:
    """Return whether this convolution has a native form that is worth its preparation."""
    return (
        input.device.type == "cpu"
        and input.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and groups == 1
        and kernel_size in {(k, k) for k in cpu.KERNEL_SIZES}
        and stride in ((1, 1), (2, 2))
        and input.shape[0] >= FEWEST_IMAGES
        and not torch.onnx.is_in_onnx_export()
        and _native_is_active()
    )


@torch.compiler.assume_constant_result  # torch.compile must not look into the compilation
def _native_is_active() -> bool:
    return active_backend("cpu") == "native"


def expert_convolution(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> Tensor:
    """Compute Y_b = (sum over e of weights[b, e] W_e) * X_b, zero-padded; float32 on the CPU.

    Args:
        input: (B, C, H, W).
        experts: (E, O, C, K, K), K one of 1, 3, 5, 7.
        weights: (B, E).
        stride: 1 or 2.
        padding: Zeros on every side, fewer than K.

    Returns:
        (B, O, H', W') with H' = floor((H + 2 padding - K) / stride) + 1, in the memory format of
        ``input``.

    Raises:
        ValueError: A shape, dtype, device, kernel size or stride does not fit.

    Second derivatives and forward mode take the plain form, with a kernel per image in memory.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels, CVPR 2020,
    equation 2.
    """
    return torch.ops.evolute.expert_convolution.default(input, experts, weights, stride, padding)


def _forward_fake(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> Tensor:
    shape = cpu.output_shape(input, experts, weights, stride, padding)
    return dense(input.new_empty(shape), is_channels_last(input))


def _backward_fake(
    grad: Tensor, input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad_input = dense(input.new_empty(input.shape), is_channels_last(input))
    return grad_input, experts.new_empty(experts.shape), weights.new_empty(weights.shape)


def _plain(input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int) -> Tensor:
    cpu.output_shape(input, experts, weights, stride, padding)  # refuses what does not fit
    return grouped.forward(input, experts, weights, stride, padding)


_library = torch.library.Library("evolute", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_arguments = "Tensor input, Tensor experts, Tensor weights, int stride, int padding"
_library.define(f"expert_convolution({_arguments}) -> Tensor", tags=_tags)
_library.define(
    f"expert_convolution_backward(Tensor grad, {_arguments}) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)
_library.impl("expert_convolution", cpu.forward, "CPU")
_library.impl("expert_convolution_backward", cpu.backward, "CPU")
torch.library.register_fake("evolute::expert_convolution", _forward_fake, lib=_library)
torch.library.register_fake("evolute::expert_convolution_backward", _backward_fake, lib=_library)
register_derivatives(_library, "expert_convolution", 3, _plain)


@register_flop_formula(torch.ops.evolute.expert_convolution)
def _flops(input_shape, experts_shape, weights_shape, stride, padding, *, out_shape=None) -> int:
    """Count two per multiply-add: every image mixes its kernels and is convolved with them."""
    kernels = experts_shape[1] * experts_shape[2] * experts_shape[3] ** 2
    rows, columns = (
        (side + 2 * padding - experts_shape[3]) // stride + 1 for side in input_shape[2:]
    )
    return 2 * input_shape[0] * kernels * (rows * columns + experts_shape[0])


@register_flop_formula(torch.ops.evolute.expert_convolution_backward)
def _backward_flops(
    grad_shape, input_shape, experts_shape, weights_shape, stride, padding, *, out_shape=None
) -> int:
    """Count two convolutions; the kernels are mixed once, and met by the experts twice."""
    kernels = experts_shape[1] * experts_shape[2] * experts_shape[3] ** 2
    rows, columns = grad_shape[2:]
    return 2 * input_shape[0] * kernels * (2 * rows * columns + 3 * experts_shape[0])
