"""Numbers for an architecture: accuracy with inherited weights, measured latency, cost on paper."""

from __future__ import annotations

from configs.errors import TooNoisy
from evaluators.complexity import count_macs, count_params, peak_memory_mb
from evaluators.device import exclusive_device, fingerprint, fingerprint_key, shared_device
from evaluators.latency import Latency, measure_latency
from evaluators.runtime import deployed

__all__ = [
    "Latency",
    "TooNoisy",
    "count_macs",
    "count_params",
    "deployed",
    "exclusive_device",
    "fingerprint",
    "fingerprint_key",
    "measure_latency",
    "peak_memory_mb",
    "shared_device",
]
