"""The two memory formats that the kernels read and write."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a tensor is channels-last, and not contiguous in the usual order too."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def dense(tensor: Tensor, channels_last: bool) -> Tensor:
    """Return the tensor in one of the two memory formats, copied if it is in another."""
    return tensor.contiguous(memory_format=memory_format(channels_last))


def memory_format(channels_last: bool) -> torch.memory_format:
    """Return torch's name of one of the two memory formats."""
    return torch.channels_last if channels_last else torch.contiguous_format
