"""The convolution with mixed kernels in plain torch: one group an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(input: Tensor, experts: Tensor, weights: Tensor, stride: int, padding: int) -> Tensor:
    """Compute `expert_convolution`; differentiable by torch itself, with a kernel per image."""
    batch, height, width = input.shape[0], *input.shape[2:]
    kernels = torch.einsum("be,eocij->bocij", weights, experts).flatten(0, 1)
    images = input.reshape(1, -1, height, width)
    return F.conv2d(images, kernels, None, stride, padding, groups=batch)[0].unflatten(
        0, (batch, -1)
    )
