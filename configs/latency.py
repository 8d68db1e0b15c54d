"""How a latency is measured, as one value: configuration files, the stopwatch, the fingerprint and
the runtimes all take it, so there is one set of defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from configs.space import STRICT, check_types, require, require_between

RESERVED = ("CPU", "GPU", "memory", "object_store_memory")  # resources that every node may have


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What exactly is timed, and how carefully. What changes a value is part of its fingerprint."""

    __pydantic_config__ = STRICT

    runtime: str = "eager"
    """What executes the network: `eager`, `compile`, `onnxruntime`, `onnxruntime_dynamic` (exported
    for any batch), `onnxruntime_operators` (with ours), `openvino`, `pt2` (compiled ahead of time),
    or a registered one."""
    batch: int = 1
    """Images per forward pass."""
    threads: int = 1
    """CPU threads."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and images."""
    channels_last: bool = True
    """Memory format of weights and images."""
    repeats: int = 60
    """Timed forward passes of a measurement, at least, unless it is precise sooner; they are spread
    over blocks."""
    precision: float = 0.01
    """Relative standard error of the median at which a measurement ends; 0 times all repeats."""
    max_spread: float = 0.2
    """Interquartile range over median above which a measurement counts as too noisy; calls count
    where the machine's speed drifted by at most half of it around them."""
    retries: int = 3
    """How often a measurement that was too noisy is repeated, after growing pauses."""
    device: str = ""
    """Where: `cpu`, `cuda`, `cuda:1`, another device of this machine than the one that trains.
    Empty is that of the search; with `resource` it is a GPU where the target has one."""
    resource: str = ""
    """A custom resource that only target nodes of a Ray cluster offer (`ray start --resources
    '{"pi5": 1}'`): latency is measured there, accuracy anywhere (docs/latency.md)."""

    def __post_init__(self) -> None:
        check_types(self)
        require_between(self, "batch", 1, 2**16)
        require_between(self, "threads", 1, 1024)
        require_between(self, "repeats", 1, 10**6)
        require_between(self, "retries", 0, 100)
        require(self, "max_spread", self.max_spread > 0, "a positive number is needed")
        require(self, "precision", 0 <= self.precision < 1, "a share in [0, 1) is needed")
        valid = re.fullmatch(r"(auto|cpu|cuda(:[0-9]{1,2})?)?", self.device) is not None
        require(self, "device", valid, "choose auto, cpu, cuda or cuda:N")
        require(self, "resource", self.resource not in RESERVED, "Ray means something else by it")
