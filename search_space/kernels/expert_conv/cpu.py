"""The convolution with mixed kernels on the CPU: the native kernel of ``expert_conv.cpp``."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from search_space.kernels.compilation import integers, load_library
from search_space.kernels.memory_format import dense, is_channels_last

TILE = 32  # output channels of a task, as in expert_conv.cpp
KERNEL_SIZES = (1, 3, 5, 7)
SLICE_BYTES = 32 << 10  # of mixed kernels at once: they should stay in the first-level cache


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled kernel; see `load_library` for the errors."""
    functions = {"expert_conv_forward": 7, "expert_conv_backward": 9}
    return load_library(Path(__file__).with_name("expert_conv.cpp"), functions)


def output_shape(
    input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[int, int, int, int]:
    """Return the output's shape; refuse what the kernel, which works on raw memory, must not see.

    Raises:
        ValueError: A shape, dtype, device, kernel size or stride does not fit.
    """
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
    """Return the sizes, the kernel's two buffers, and how many tasks a backward pass has."""
    batch, channels, height, width = input.shape
    count, out_channels, _, kernel_size, _ = experts.shape
    taps, tiles = kernel_size**2, -(-out_channels // TILE)
    width_of_slice = min(channels, max(1, SLICE_BYTES // (taps * TILE * 4)))
    last = is_channels_last(input)
    sizes = integers(
        batch, channels, height, width, out_channels, count, kernel_size, stride, padding,
        width_of_slice, last, torch.get_num_threads(),
    )  # fmt: skip
    padded = torch.empty(batch * channels * (height + 2 * padding) * (width + 2 * padding))
    packed = torch.empty(tiles * count * channels * taps * TILE)
    return sizes, padded, packed, tiles * -(-channels // width_of_slice)


def forward(input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int) -> Tensor:
    """Compute the convolution; see `expert_convolution`."""
    shape = output_shape(input, experts, weights, stride, padding)
    input = dense(input, is_channels_last(input))
    experts, weights = experts.contiguous(), weights.contiguous()
    output = torch.empty(shape, memory_format=torch.channels_last)
    sizes, padded, packed, _ = _room(input, experts, weights, stride, padding)
    tensors = (input, experts, weights, padded, packed, output)
    library().expert_conv_forward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return dense(output, is_channels_last(input))


def backward(
    grad: Tensor, input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients with respect to input, experts and weights."""
    shape = output_shape(input, experts, weights, stride, padding)
    if tuple(grad.shape) != shape or grad.dtype is not torch.float32:
        raise ValueError(f"gradient is {grad.dtype} {tuple(grad.shape)}, expected {shape}")
    last = is_channels_last(input)
    input, experts, weights = dense(input, last), experts.contiguous(), weights.contiguous()
    grad = dense(grad, True)

    grad_experts = torch.empty_like(experts)
    sizes, padded, packed, tasks = _room(input, experts, weights, stride, padding)
    shares = torch.empty(tasks, *weights.shape)
    tensors = (grad, input, experts, weights, padded, packed, grad_experts, shares)
    library().expert_conv_backward(sizes, *(tensor.data_ptr() for tensor in tensors))

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
    grad_input = forward(grad, turned, weights, 1, kernel_size - 1 - padding)
    return dense(grad_input, last), grad_experts, shares.sum(0)
