"""Operators at the speed of the hardware, one package each; `active_backends` says what runs.

A package holds the operator as torch sees it (``op``) and its implementations. Shared by all:
`backends` chooses an implementation, `compilation` compiles C++ at first use, `derivatives` gives
what lies beyond the first derivative.

The C++ kernels use OpenMP, as torch does: in a process that was forked from one that had computed
with several threads they wait for ever, as torch's convolution does. Start processes by
``forkserver`` or ``spawn``.
"""

from __future__ import annotations

import torch

from search_space.kernels import expert_conv, involution
from search_space.kernels.involution import active_backend

__all__ = ["active_backend", "active_backends", "expert_conv", "involution"]


def active_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """Return operator -> implementation that runs on a device, as part of what a latency is of.

    Raises:
        UserError: An environment variable asks for an implementation that does not exist.
    """
    return {
        "involution": involution.active_backend(device),
        "expert_conv": expert_conv.active_backend(device),
    }
