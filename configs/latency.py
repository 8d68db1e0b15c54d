"""How a latency is measured, as one value: configuration files, the stopwatch, the fingerprint and
the runtimes all take it, so there is one set of defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.space import FORBID_UNKNOWN_KEYS, require


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What exactly is timed, and how carefully. What changes a value is part of its fingerprint."""

    __pydantic_config__ = FORBID_UNKNOWN_KEYS

    runtime: str = "eager"
    """What executes the network: `eager`, `compile`, `onnxruntime`, or a registered one."""
    batch: int = 1
    """Images per forward pass."""
    threads: int = 1
    """CPU threads."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and images."""
    channels_last: bool = True
    """Memory format of weights and images."""
    repeats: int = 60
    """Timed forward passes of a measurement, at least; they are spread over blocks."""
    max_spread: float = 0.2
    """Interquartile range over median above which a measurement counts as too noisy."""
    retries: int = 3
    """How often a measurement that was too noisy is repeated, after growing pauses."""

    def __post_init__(self) -> None:
        for key in ("batch", "threads", "repeats", "max_spread"):
            require(self, key, getattr(self, key) > 0, "a positive number is needed")
        require(self, "retries", self.retries >= 0, "0 or a positive number is needed")
        known = ("float32", "bfloat16", "float16")
        require(self, "dtype", self.dtype in known, f"choose one of {', '.join(known)}")
