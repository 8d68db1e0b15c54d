"""Times one call of a program, on the CPU's clock or the GPU's."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from evaluators.runtime import Program

try:
    import resource
except ImportError:  # Windows: interrupted calls are counted like all others
    resource = None  # type: ignore[assignment]

Stopwatch = Callable[[], float]  # runs the program once and returns the milliseconds it took

TRIES = 3


def wall_stopwatch(program: Program) -> Stopwatch:
    """For programs that return when they are done.

    A call in whose midst the kernel gave the core to another process says nothing about the
    program, so it is repeated, twice at most: long calls on a crowded machine are all interrupted.
    """

    def stopwatch() -> float:
        for _ in range(TRIES):
            interruptions = _interruptions()
            start = time.perf_counter_ns()
            program()
            elapsed = time.perf_counter_ns() - start
            if _interruptions() == interruptions:
                break
        return elapsed / 1e6

    return stopwatch


def event_stopwatch(program: Program) -> Stopwatch:
    """For programs that only enqueue work on PyTorch's CUDA stream."""

    def stopwatch() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        program()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    return stopwatch


def _interruptions() -> int:
    """How often this process, all its threads together, had to leave a core it wanted to keep."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0
