"""Numbers for an architecture: what a metric is, accuracy, measured latency, cost on paper."""

from __future__ import annotations

from configs.errors import TooNoisy
from configs.latency import LatencySettings
from evaluators.accuracy import inherited_accuracy, measure_accuracy
from evaluators.calibration import recalibrate
from evaluators.cascade import measure_in_order
from evaluators.complexity import count_macs, count_params, peak_memory_mb
from evaluators.device_lock import exclusive_device, shared_device
from evaluators.fingerprint import fingerprint, fingerprint_key
from evaluators.latency import Latency, measure_latency, measure_reference
from evaluators.metric import Metric, register_metric
from evaluators.metrics import METRICS
from evaluators.runtime import Runtime, deployed, register_runtime
from evaluators.subject import Subject

__all__ = [
    "METRICS",
    "Latency",
    "LatencySettings",
    "Metric",
    "Runtime",
    "Subject",
    "TooNoisy",
    "count_macs",
    "count_params",
    "deployed",
    "exclusive_device",
    "fingerprint",
    "fingerprint_key",
    "inherited_accuracy",
    "measure_accuracy",
    "measure_in_order",
    "measure_latency",
    "measure_reference",
    "peak_memory_mb",
    "recalibrate",
    "register_metric",
    "register_runtime",
    "shared_device",
]
