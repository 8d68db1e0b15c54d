"""Involution on CUDA: Triton kernels for the output and for both gradients.

Each program holds a tile of pixels times the channels of one group in registers and accumulates
in float32; nothing is written but the result, and nothing is added atomically, so equal inputs
give equal bits. Strides are arguments: every memory format is read in place.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from search_space.kernels.memory_format import is_channels_last, memory_format

_PIXELS = 64  # pixels of a tile
_CHANNELS = 32  # most channels of a tile; a wider group takes several


@triton.jit
def _pixel(index, pixels, height, width):
    """Split a flat index over (batch, height, width) in three, and say whether it exists."""
    exists = index < pixels
    image = (index // (height * width)).to(tl.int64)
    inside = index % (height * width)
    return image, inside // width, inside % width, exists


@triton.jit
def _forward_kernel(
    x, weight, out, pixels, height, width, out_height, out_width, group_width,
    x_b, x_c, x_h, x_w, w_b, w_c, w_h, w_w, o_b, o_c, o_h, o_w,
    K: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Compute out[p, c] = sum of weight[p, i, j] * x[S*p + D*(i - K//2, j - K//2), c]."""
    index = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b, h, w, exists = _pixel(index, pixels, out_height, out_width)
    blocks = tl.cdiv(group_width, CHANNELS)
    group = tl.program_id(1) // blocks
    inside = tl.program_id(1) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    c = (group * group_width + inside)[:, None]
    channel = (inside < group_width)[:, None]
    weights = weight + b * w_b + group * (K * K) * w_c + h * w_h + w * w_w
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for i in range(K):
        for j in range(K):
            row, column = S * h + D * (i - K // 2), S * w + D * (j - K // 2)
            valid = exists & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            tap = tl.load(weights + (i * K + j) * w_c, mask=valid, other=0.0)
            source = x + b * x_b + row * x_h + column * x_w
            values = tl.load(source[None, :] + c * x_c, mask=valid[None, :] & channel, other=0.0)
            total += values.to(tl.float32) * tap.to(tl.float32)[None, :]
    target = (out + b * o_b + h * o_h + w * o_w)[None, :] + c * o_c
    tl.store(target, total.to(out.dtype.element_ty), mask=exists[None, :] & channel)


@triton.jit
def _input_kernel(
    grad, weight, out, pixels, height, width, out_height, out_width, group_width,
    g_b, g_c, g_h, g_w, w_b, w_c, w_h, w_w, o_b, o_c, o_h, o_w,
    K: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Compute out[q, c] = sum of weight[p, i, j] * grad[p, c] over all p, i, j that read q."""
    index = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b, h, w, exists = _pixel(index, pixels, height, width)
    blocks = tl.cdiv(group_width, CHANNELS)
    group = tl.program_id(1) // blocks
    inside = tl.program_id(1) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    c = (group * group_width + inside)[:, None]
    channel = (inside < group_width)[:, None]
    weights = weight + b * w_b + group * (K * K) * w_c
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for i in range(K):
        for j in range(K):
            above, left = h - D * (i - K // 2), w - D * (j - K // 2)
            row, column = above // S, left // S
            valid = exists & (above >= 0) & (row < out_height) & (above % S == 0)
            valid = valid & (left >= 0) & (column < out_width) & (left % S == 0)
            place = weights + (i * K + j) * w_c + row * w_h + column * w_w
            tap = tl.load(place, mask=valid, other=0.0)
            source = grad + b * g_b + row * g_h + column * g_w
            values = tl.load(source[None, :] + c * g_c, mask=valid[None, :] & channel, other=0.0)
            total += values.to(tl.float32) * tap.to(tl.float32)[None, :]
    target = (out + b * o_b + h * o_h + w * o_w)[None, :] + c * o_c
    tl.store(target, total.to(out.dtype.element_ty), mask=exists[None, :] & channel)


@triton.jit
def _weight_kernel(
    grad, x, out, pixels, height, width, out_height, out_width, group_width,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w, o_b, o_c, o_h, o_w,
    K: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Compute out[p, i, j] = sum over the group's channels of grad[p, c] * x[S*p + D*(i, j), c]."""
    index = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b, h, w, exists = _pixel(index, pixels, out_height, out_width)
    group = tl.program_id(1)
    results = out + b * o_b + group * (K * K) * o_c + h * o_h + w * o_w
    gradients = grad + b * g_b + h * g_h + w * g_w
    for i in range(K):
        for j in range(K):
            row, column = S * h + D * (i - K // 2), S * w + D * (j - K // 2)
            valid = exists & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            source = x + b * x_b + row * x_h + column * x_w
            total = tl.zeros((PIXELS,), tl.float32)
            for start in range(0, group_width, CHANNELS):
                inside = start + tl.arange(0, CHANNELS)
                c = (group * group_width + inside)[:, None]
                mask = valid[None, :] & (inside < group_width)[:, None]
                values = tl.load(source[None, :] + c * x_c, mask=mask, other=0.0)
                pixel = tl.load(gradients[None, :] + c * g_c, mask=mask, other=0.0)
                total += tl.sum(values.to(tl.float32) * pixel.to(tl.float32), axis=0)
            tl.store(results + (i * K + j) * o_c, total.to(out.dtype.element_ty), mask=exists)


def _launch(kernel, first, second, out, image, weight, geometry, blocks_of_channels) -> None:
    """Run a kernel over every pixel of ``out``, whose batch, height and width are the grid's."""
    kernel_size, stride, dilation = geometry
    groups = weight.shape[1] // kernel_size**2
    group_width = image.shape[1] // groups
    channels = min(triton.next_power_of_2(group_width), _CHANNELS)
    pixels = out.shape[0] * out.shape[2] * out.shape[3]
    blocks = triton.cdiv(group_width, channels) if blocks_of_channels else 1
    with torch.cuda.device_of(out):
        kernel[(triton.cdiv(pixels, _PIXELS), groups * blocks)](
            first, second, out, pixels, *image.shape[2:], *weight.shape[2:], group_width,
            *first.stride(), *second.stride(), *out.stride(),
            K=kernel_size, S=stride, D=dilation, CHANNELS=channels, PIXELS=_PIXELS,
            enable_fp_fusion=True,
        )  # fmt: skip


def forward(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Compute involution of CUDA tensors in float32, bfloat16 or float16."""
    size = (*input.shape[:2], *weight.shape[2:])
    layout = memory_format(is_channels_last(input))
    output = torch.empty(size, dtype=input.dtype, device=input.device, memory_format=layout)
    geometry = (kernel_size, stride, dilation)
    _launch(_forward_kernel, input, weight, output, input, weight, geometry, True)
    return output


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients with respect to input and weight, in their memory formats."""
    grad_input, grad_weight = torch.empty_like(input), torch.empty_like(weight)
    geometry = (kernel_size, stride, dilation)
    _launch(_input_kernel, grad, weight, grad_input, input, weight, geometry, True)
    _launch(_weight_kernel, grad, input, grad_weight, input, weight, geometry, False)
    return grad_input, grad_weight
