"""The operator ``evolute::expert_convolution``: a native CPU convolution with mixed kernels.

Only float32 on the CPU; `fits` says where it may stand in for the grouped convolution that the
rest of the world uses (`search_space.operators.experts`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from search_space.kernels import native
from search_space.kernels.library import active_backend

TILE = 32  # output channels of a task, as in experts.cpp
SLICE_BYTES = 32 << 10  # of mixed kernels at once: they should stay in the first-level cache
FEWEST_IMAGES = 16  # packing the experts pays from about here on
KERNEL_SIZES = (1, 3, 5, 7)


def fits(input: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], groups: int) -> bool:
    """Is there a native form of this convolution, and is it worth its preparation?"""
    return (
        input.device.type == "cpu"
        and input.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and groups == 1
        and kernel_size in {(k, k) for k in KERNEL_SIZES}
        and stride in ((1, 1), (2, 2))
        and input.shape[0] >= FEWEST_IMAGES
        and not torch.onnx.is_in_onnx_export()
        and _is_native()
    )


@torch.compiler.assume_constant_result  # torch.compile must not look into the compilation
def _is_native() -> bool:
    return active_backend("cpu") == "native"


def expert_convolution(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> Tensor:
    """Y_b = (sum over e of weights[b, e] W_e) * X_b, zero-padded; float32 on the CPU.

    Args:
        input: (B, C, H, W).
        experts: (E, O, C, K, K), K one of 1, 3, 5, 7.
        weights: (B, E).
        stride: 1 or 2.

    Returns:
        (B, O, H', W') with H' = floor((H + 2 padding - K) / stride) + 1, in the memory format of
        ``input``.

    Raises:
        ValueError: a shape, dtype, device, kernel size or stride does not fit.

    Source: Chen et al., Dynamic Convolution: Attention over Convolution Kernels, CVPR 2020,
    equation 2.
    """
    return torch.ops.evolute.expert_convolution.default(input, experts, weights, stride, padding)


def _output_shape(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[int, int, int, int]:
    """Checks what the kernel, which works on raw memory, relies on."""
    batch, channels, height, width = input.shape
    count, out_channels, _, kernel_size, _ = experts.shape
    if tuple(experts.shape[2:]) != (channels, kernel_size, kernel_size):
        raise ValueError(f"experts {tuple(experts.shape)} do not fit {channels} channels")
    if tuple(weights.shape) != (batch, count):
        raise ValueError(f"weights {tuple(weights.shape)}, expected {(batch, count)}")
    allowed = kernel_size in KERNEL_SIZES and stride in (1, 2) and 0 <= padding < kernel_size
    if not allowed:
        raise ValueError(f"kernel_size {kernel_size}, stride {stride}, padding {padding}")
    rows, columns = ((n + 2 * padding - kernel_size) // stride + 1 for n in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(f"kernel_size {kernel_size} exceeds {height}x{width} and its padding")
    for tensor in (input, experts, weights):
        if tensor.dtype is not torch.float32 or tensor.device != input.device:
            raise ValueError(f"all tensors must be float32 on one device, not {tensor.dtype}")
    return batch, out_channels, rows, columns


def _room(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[object, Tensor, Tensor, int]:
    """Sizes as the kernel reads them, its two buffers, and how many tasks a backward pass has."""
    batch, channels, height, width = input.shape
    count, out_channels, _, kernel_size, _ = experts.shape
    taps, tiles = kernel_size**2, -(-out_channels // TILE)
    width_of_slice = min(channels, max(1, SLICE_BYTES // (taps * TILE * 4)))
    last = native.is_channels_last(input)
    sizes = native.integers(
        batch, channels, height, width, out_channels, count, kernel_size, stride, padding,
        width_of_slice, last, torch.get_num_threads(),
    )  # fmt: skip
    padded = torch.empty(batch * channels * (height + 2 * padding) * (width + 2 * padding))
    packed = torch.empty(tiles * count * channels * taps * TILE)
    return sizes, padded, packed, tiles * -(-channels // width_of_slice)


def _forward(input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int) -> Tensor:
    shape = _output_shape(input, experts, weights, stride, padding)
    input = native.dense(input, native.is_channels_last(input))
    experts, weights = experts.contiguous(), weights.contiguous()
    output = torch.empty(shape, memory_format=torch.channels_last)
    sizes, padded, packed, _ = _room(input, experts, weights, stride, padding)
    tensors = (input, experts, weights, padded, packed, output)
    native.library().experts_forward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return native.dense(output, native.is_channels_last(input))


def _backward(
    grad: Tensor, input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _output_shape(input, experts, weights, stride, padding)
    if tuple(grad.shape) != shape or grad.dtype is not torch.float32:
        raise ValueError(f"gradient is {grad.dtype} {tuple(grad.shape)}, expected {shape}")
    last = native.is_channels_last(input)
    input, experts, weights = native.dense(input, last), experts.contiguous(), weights.contiguous()
    grad = native.dense(grad, True)

    grad_experts = torch.empty_like(experts)
    sizes, padded, packed, tasks = _room(input, experts, weights, stride, padding)
    shares = torch.empty(tasks, *weights.shape)
    tensors = (grad, input, experts, weights, padded, packed, grad_experts, shares)
    native.library().experts_backward(sizes, *(tensor.data_ptr() for tensor in tensors))

    # The input's gradient is a convolution of the output's, spread to the stride, with the kernels
    # turned by half a circle.
    kernel_size = experts.shape[3]
    if stride > 1:
        rows, columns = (n + 2 * padding - kernel_size + 1 for n in input.shape[2:])
        spread = grad.new_zeros(*shape[:2], rows, columns).contiguous(
            memory_format=torch.channels_last
        )
        spread[..., ::stride, ::stride] = grad
        grad = spread
    turned = experts.transpose(1, 2).flip(3, 4)
    grad_input = _forward(grad, turned, weights, 1, kernel_size - 1 - padding)
    return native.dense(grad_input, last), grad_experts, shares.sum(0)


def _forward_fake(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> Tensor:
    shape = _output_shape(input, experts, weights, stride, padding)
    return native.dense(input.new_empty(shape), native.is_channels_last(input))


def _backward_fake(
    grad: Tensor, input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad_input = native.dense(input.new_empty(input.shape), native.is_channels_last(input))
    return grad_input, experts.new_empty(experts.shape), weights.new_empty(weights.shape)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx, grad: Tensor):
    operator = torch.ops.evolute.expert_convolution_backward.default
    return *operator(grad, *ctx.saved_tensors, ctx.stride, ctx.padding), None, None


_library = torch.library.Library("evolute", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_arguments = "Tensor input, Tensor experts, Tensor weights, int stride, int padding"
_library.define(f"expert_convolution({_arguments}) -> Tensor", tags=_tags)
_library.define(
    f"expert_convolution_backward(Tensor grad, {_arguments}) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)
_library.impl("expert_convolution", _forward, "CPU")
_library.impl("expert_convolution_backward", _backward, "CPU")
torch.library.register_fake("evolute::expert_convolution", _forward_fake, lib=_library)
torch.library.register_fake("evolute::expert_convolution_backward", _backward_fake, lib=_library)
torch.library.register_autograd(
    "evolute::expert_convolution", _autograd_backward, setup_context=_setup_context, lib=_library
)


@register_flop_formula(torch.ops.evolute.expert_convolution)
def _flops(input_shape, experts_shape, weights_shape, stride, padding, *, out_shape=None) -> int:
    """Two per multiply-add: every image mixes its kernels and is convolved with them."""
    kernels = experts_shape[1] * experts_shape[2] * experts_shape[3] ** 2
    rows, columns = (
        (side + 2 * padding - experts_shape[3]) // stride + 1 for side in input_shape[2:]
    )
    return 2 * input_shape[0] * kernels * (rows * columns + experts_shape[0])


@register_flop_formula(torch.ops.evolute.expert_convolution_backward)
def _backward_flops(
    grad_shape, input_shape, experts_shape, weights_shape, stride, padding, *, out_shape=None
) -> int:
    """Two convolutions; the kernels are mixed once, and met by the experts twice."""
    kernels = experts_shape[1] * experts_shape[2] * experts_shape[3] ** 2
    rows, columns = grad_shape[2:]
    return 2 * input_shape[0] * kernels * (2 * rows * columns + 3 * experts_shape[0])
