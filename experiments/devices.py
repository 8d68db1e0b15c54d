"""Which device a configuration means here."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch

from configs import Config, UserError
from configs.latency import LatencySettings
from evaluators.device_lock import shared_device
from supernet.distributed import is_main_process


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        UserError: A GPU is asked for that isn't there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {name!r} is not possible; {torch.cuda.device_count()} GPUs are visible here"
        )
    return device


def latency_device(config: Config, settings: LatencySettings) -> torch.device:
    """Return the device here that latency settings of a configuration mean."""
    of_target = "auto" if settings.resource else config.device
    return resolve_device(settings.device or of_target)


def gpus_per_worker(config: Config) -> float:
    """Return the GPUs of a worker: one where it uses a GPU, unless the configuration says."""
    timed = [each for each in (config.latency, *config.targets.values()) if not each.resource]
    devices = [resolve_device(config.device), *(latency_device(config, each) for each in timed)]
    if config.search.gpus_per_worker or all(device.type == "cpu" for device in devices):
        return config.search.gpus_per_worker
    return 1


def worker_threads(config: Config) -> int:
    """Return the CPU threads of a worker: several share the cores; one, or none, has them all."""
    if workers_at_a_time(config) > 1:
        return max(int(config.search.cpus_per_worker), 1)
    return torch.get_num_threads()


def workers_at_a_time(config: Config) -> int:
    """Return how many workers there are; of `auto`, how many this machine has room for."""
    search = config.search
    if search.workers != "auto":
        return search.workers
    shares = [(os.cpu_count() or 1, search.cpus_per_worker)]
    shares.append((torch.cuda.device_count(), gpus_per_worker(config)))
    return max(min(int(there / each) for there, each in shares if each), 1)


def hold_in_step(device: torch.device) -> AbstractContextManager[None]:
    """Hold a device shared for one step of a training, so that it is never timed meanwhile.

    The processes of a distributed run wait for one another within a step. Where they share a
    device (the CPU) only the first of them holds it: one that held it, another that waited behind a
    timer, and the timer would wait for each other.
    """
    if device.type == "cpu" and not is_main_process():
        return contextlib.nullcontext()
    return shared_device(device)
