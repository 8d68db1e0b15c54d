"""How many CPU threads PyTorch uses for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Use a number of threads inside PyTorch's operators, and afterwards as many as before.

    Ray leaves every worker with one, whatever it owns: the number is always set, never inherited.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
