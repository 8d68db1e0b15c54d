"""Runtime ``eager``: PyTorch as it is."""

from __future__ import annotations

import torch
from torch import nn

from configs.latency import LatencySettings
from evaluators.runtime import Program, register_runtime


@register_runtime("eager", version=lambda: torch.__version__, synchronous=False)
def prepare(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Return the module's own forward pass; on CUDA it returns before the device has finished."""
    return lambda: model(example)
