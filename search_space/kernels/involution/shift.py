"""Involution as a sum over taps: K*K shifted views, multiplied and added, in plain torch.

It runs on every device and in every floating dtype, and is what the faster kernels are held
against. Memory beyond inputs and output: one padded copy of the input (K*K copies with unfold).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half types (a K=7 sum in bfloat16 loses two digits), else the dtype."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _taps(
    padded: Tensor, kernel_size: int, stride: int, dilation: int, height: int, width: int
) -> Iterator[Tensor]:
    """Yield the K*K views (..., height, width) of a padded image (..., H + 2p, W + 2p)."""
    for i in range(0, kernel_size * dilation, dilation):
        rows = padded[..., i : i + stride * (height - 1) + 1 : stride, :]
        for j in range(0, kernel_size * dilation, dilation):
            yield rows[..., j : j + stride * (width - 1) + 1 : stride]


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """Turn (B, C, H, W) into (B, G, C/G, H, W)."""
    return tensor.unflatten(1, (groups, -1))


def _padded_groups(tensor: Tensor, kernel_size: int, dilation: int, groups: int) -> Tensor:
    padding = dilation * (kernel_size // 2)
    return _grouped(F.pad(tensor, (padding,) * 4), groups)


def forward(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Compute `involution`; differentiable by torch itself."""
    dtype = accumulation_dtype(input.dtype)
    height, width = weight.shape[-2:]
    groups = weight.shape[1] // kernel_size**2
    padded = _padded_groups(input.to(dtype), kernel_size, dilation, groups)
    kernels = _grouped(weight.to(dtype), groups)
    views = _taps(padded, kernel_size, stride, dilation, height, width)
    output = next(views) * kernels[:, :, :1]
    for tap, view in enumerate(views, start=1):
        output = output.addcmul_(view, kernels[:, :, tap : tap + 1])
    return output.flatten(1, 2).to(input.dtype)


def backward(
    grad: Tensor, input: Tensor, weight: Tensor, kernel_size: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients with respect to input and weight, given the gradient of the output."""
    dtype = accumulation_dtype(input.dtype)
    height, width = weight.shape[-2:]
    groups = weight.shape[1] // kernel_size**2
    padding = dilation * (kernel_size // 2)
    padded = _padded_groups(input.to(dtype), kernel_size, dilation, groups)
    kernels = _grouped(weight.to(dtype), groups)
    grads = _grouped(grad.to(dtype), groups)

    grad_padded = torch.zeros_like(padded)
    grad_kernels = torch.empty_like(kernels)
    shape = (kernel_size, stride, dilation, height, width)
    for tap, (view, grad_view) in enumerate(zip(_taps(padded, *shape), _taps(grad_padded, *shape))):
        grad_view.addcmul_(grads, kernels[:, :, tap : tap + 1])
        torch.sum(grads * view, dim=2, out=grad_kernels[:, :, tap])
    rows, columns = input.shape[-2:]
    grad_input = grad_padded[..., padding : padding + rows, padding : padding + columns]
    return grad_input.flatten(1, 2).to(input.dtype), grad_kernels.flatten(1, 2).to(weight.dtype)
