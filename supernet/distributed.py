"""A training in several processes, as `torchrun` starts them, each with its share of a batch."""

from __future__ import annotations

import os

import torch
from torch import nn


def join_distributed_run() -> tuple[int, int]:
    """Return (rank, processes) of a run that `torchrun` started; (0, 1) otherwise."""
    if "WORLD_SIZE" not in os.environ or not torch.distributed.is_available():
        return 0, 1
    if not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def leave_distributed_run() -> None:
    """Wait for the other processes: one that loses its partner in the middle of it aborts."""
    if in_distributed_run():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def process_rank() -> int:
    """Return the number of this process in a distributed run; 0 otherwise."""
    return torch.distributed.get_rank() if in_distributed_run() else 0


def is_main_process() -> bool:
    """Return whether this process writes files: the first one, or the only one."""
    return process_rank() == 0


def average_over_processes(model: nn.Module, loss: float) -> float:
    """Average gradients over the processes of a distributed run, where there is one.

    All processes take the same paths, so the same parameters have gradients everywhere; unlike
    DistributedDataParallel this needs no search for unused parameters.

    Returns:
        The average loss, the same everywhere: if it is not finite, all processes learn of it.
    """
    if not in_distributed_run():
        return loss
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([loss])])
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    parts = together[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return together[-1].item()


def share_statistics(model: nn.Module) -> None:
    """Average the batch norms' running statistics over the processes, where there are several.

    In a step each process normalizes by its own share of the batch, as DistributedDataParallel and
    timm do by default: statistics of the whole batch (`torch.nn.SyncBatchNorm`) would cost an
    exchange in every layer, and torch has them for GPUs only.
    """
    if in_distributed_run():
        from timm.utils import distribute_bn

        distribute_bn(model, torch.distributed.get_world_size(), reduce=True)


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in some process: the same answer in all of them."""
    if not in_distributed_run():
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flags = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(flags)
    return flags.item() > 0


def in_distributed_run() -> bool:
    """Return whether this is one of the processes of a run that was joined."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
