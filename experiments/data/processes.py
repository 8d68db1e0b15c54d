"""How the processes that decode images are started: never by forking a process that computes."""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import BaseContext

PRELOADED = ["torch", "timm.data", "experiments.data.registry"]


@functools.cache
def loading_context() -> BaseContext:
    """Return the context in which data loaders start their processes.

    A child forked from a process that has computed with several threads hangs in its first
    parallel loop, in torch's convolution as in our kernels: OpenMP's threads are not copied. So a
    server is started once (2.9 s, mostly the import of torch) that computes nothing, and each
    process is forked from that in some 0.02 s. With ``spawn`` every loader would take 1.3 s on two
    idle cores, every epoch and every evaluation.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
