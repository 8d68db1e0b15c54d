"""Involution at the speed of the hardware: one function, three implementations behind it.

``native`` (C++ on the CPU), ``triton`` (CUDA) and ``shift`` (plain torch, everywhere).
"""

from __future__ import annotations

import torch
from torch import Tensor

from search_space.kernels import banded
from search_space.kernels.library import active_backend

__all__ = ["active_backend", "involution"]


def involution(
    input: Tensor, weight: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Convolve every pixel with its own kernel, shared by the C/G channels of a group.

    ``output[b, c, p] = sum_ij weight[b, g(c)*K*K + i*K + j, p]
    * input[b, c, stride*p + dilation*(i - K//2, j - K//2)]`` with zero padding and
    ``g(c) = c // (C // G)``.

    Args:
        input: (B, C, H, W).
        weight: (B, G*K*K, H', W') with H' = ceil(H / stride); G divides C.
        kernel_size: K, odd.

    Returns:
        (B, C, H', W'), in the dtype and memory format of ``input``; under autocast both inputs
        are cast to the autocast dtype first. Half types accumulate in float32.

    Raises:
        ValueError: a shape, dtype or device does not fit.

    Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual
    Recognition, CVPR 2021, equation 4.
    """
    if torch.onnx.is_in_onnx_export():  # ONNX has no involution
        return banded.forward(input, weight, kernel_size, stride, dilation)
    return torch.ops.evolute.involution.default(input, weight, kernel_size, stride, dilation)
