"""Involution on the CPU: the native kernel of ``involution.cpp``."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from search_space.kernels.compilation import integers, load_library
from search_space.kernels.memory_format import dense, is_channels_last, memory_format

DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled kernel; see `load_library` for the errors."""
    functions = {"involution_forward": 4, "involution_backward": 6, "involution_spanned": 6}
    return load_library(Path(__file__).with_name("involution.cpp"), functions)


def _sizes(
    input: Tensor, weight: Tensor, geometry: tuple[int, int, int], last: bool, weight_last: bool
) -> ctypes.Array:
    groups = weight.shape[1] // (geometry[0] * geometry[0])
    bfloat16 = input.dtype is torch.bfloat16
    threads = torch.get_num_threads()
    return integers(*input.shape, groups, *geometry, last, weight_last, bfloat16, threads)


def forward(input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """Compute involution of CPU tensors of one dtype of ``DTYPES``."""
    last = is_channels_last(input)
    weight_last = weight.is_contiguous(memory_format=torch.channels_last)
    input, weight = dense(input, last), dense(weight, weight_last)
    size = (*input.shape[:2], *weight.shape[2:])
    output = torch.empty(size, dtype=input.dtype, memory_format=memory_format(last))
    sizes = _sizes(input, weight, (kernel_size, stride, dilation), last, weight_last)
    library().involution_forward(sizes, input.data_ptr(), weight.data_ptr(), output.data_ptr())
    return output


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients with respect to input and weight, in their memory formats."""
    last = is_channels_last(input)
    weight_last = weight.is_contiguous(memory_format=torch.channels_last)
    input, weight, grad = dense(input, last), dense(weight, weight_last), dense(grad, last)
    grad_input, grad_weight = torch.empty_like(input), torch.empty_like(weight)
    sizes = _sizes(input, weight, (kernel_size, stride, dilation), last, weight_last)
    tensors = (grad, input, weight, grad_input, grad_weight)
    library().involution_backward(sizes, *(tensor.data_ptr() for tensor in tensors))
    return grad_input, grad_weight
