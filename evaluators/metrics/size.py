"""Params, multiply-accumulates and memory: what is counted."""

from __future__ import annotations

import torch

from configs.latency import LatencySettings
from evaluators.complexity import count_macs, count_params, peak_memory_mb
from evaluators.memory_table import MemoryTable
from evaluators.metric import COUNTED, Calculate, register_metric, short_number
from evaluators.subject import Subject
from search_space import SearchSpace


@register_metric(
    "params",
    label="params",
    direction="minimize",
    effort=COUNTED,
    write=short_number,
    always=True,
    additive=True,
)
def params(subject: Subject) -> float:
    """Learnable numbers of the network as it is shipped."""
    return count_params(subject.deployed)


@register_metric(
    "macs",
    label="MACs",
    direction="minimize",
    effort=COUNTED,
    write=short_number,
    always=True,
    additive=True,
)
def macs(subject: Subject) -> float:
    """Multiply-accumulates of one image."""
    return count_macs(subject.deployed, (1, *subject.image_shape))


def _memory_table(
    space: SearchSpace, settings: LatencySettings, device: torch.device
) -> Calculate | None:
    """What CUDA's allocator holds is not a property of the network."""
    return None if device.type == "cuda" else MemoryTable(space, settings.batch)


@register_metric(
    "memory_mb",
    label="memory",
    unit="MB",
    direction="minimize",
    effort=COUNTED,
    write="{:.3g}".format,
    table=_memory_table,
)
def memory_mb(subject: Subject) -> float:
    """Peak memory of one inference, see `peak_memory_mb`: measured on CUDA, counted elsewhere."""
    return peak_memory_mb(subject.deployed, (subject.settings.batch, *subject.image_shape))
