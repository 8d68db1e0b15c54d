"""What a number was measured on: everything besides the network that changes a latency.

Two values may be compared only when their fingerprints are equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.latency import LatencySettings
from evaluators.runtimes import runtime_version
from search_space.kernels import active_backends

Fingerprint = dict[str, str | int]


def fingerprint(
    image_shape: Sequence[int], settings: LatencySettings, device: str | torch.device = "cpu"
) -> Fingerprint:
    """Return everything a latency depends on besides the network, as a flat JSON-able mapping.

    Keys: device, driver, torch, runtime, runtime_version, threads, dtype, memory_format, batch,
    input, and the implementation of each operator that has several.

    Args:
        image_shape: (C, H, W) of one image.

    Raises:
        UserError: The runtime does not exist, or a package it needs is missing.
    """
    device = torch.device(device)
    return {
        "device": device_name(device),
        "driver": _driver(device),
        "torch": torch.__version__,
        "runtime": settings.runtime,
        "runtime_version": runtime_version(settings.runtime),
        "threads": settings.threads,
        "dtype": settings.dtype,
        "memory_format": "channels_last" if settings.channels_last else "contiguous",
        "batch": settings.batch,
        "input": "x".join(str(size) for size in image_shape),
        **active_backends(device),
    }


def fingerprint_key(fingerprint: Fingerprint) -> str:
    """Return a short name (12 hexadecimal digits), equal on every machine and in every run."""
    text = json.dumps(fingerprint, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def device_name(device: str | torch.device) -> str:
    """Return a name such as ``NVIDIA H100 80GB HBM3`` or ``Intel(R) Xeon(R) 6/207/2, 2 cores``.

    Virtual machines hide the CPU's product name, so family/model/stepping are part of it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} {platform.processor() or platform.machine()}"
    info = _cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    numbers = [info[key] for key in ("cpu family", "model", "stepping") if key in info]
    return f"{name} {'/'.join(numbers)}".strip() + f", {os.cpu_count()} cores"


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return "none"
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text()) if version.exists() else None
    return f"{found.group() if found else 'unknown'}, CUDA {torch.version.cuda}"


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
