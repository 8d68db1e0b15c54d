"""Which device a configuration means here."""

from __future__ import annotations

import os

import torch

from configs import Config, UserError


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


def gpus_per_worker(config: Config) -> float:
    """A worker on a GPU owns one unless the configuration says more precisely."""
    if config.search.gpus_per_worker or resolve_device(config.device).type == "cpu":
        return config.search.gpus_per_worker
    return 1


def join_distributed_run() -> tuple[int, int]:
    """(rank, processes) of a run that `torchrun` started; (0, 1) otherwise."""
    if "WORLD_SIZE" not in os.environ or not torch.distributed.is_available():
        return 0, 1
    if not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def leave_distributed_run() -> None:
    """Waits for the other processes: one that loses its partner in the middle of it aborts."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
