"""Latency, measured like a physical quantity.

A computer's speed drifts: clocks change, neighbours come and go. So blocks of calls of the network
are interleaved with blocks of a small, fixed *reference network*, and every call is expressed in
units of the reference's time right before and after it. What slows both cancels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from configs.errors import UserError
from evaluators.device import (
    Fingerprint,
    exclusive_device,
    fingerprint,
    fingerprint_key,
    shared_device,
)
from evaluators.runtime import Program, prepare

BLOCKS = 10  # blocks of the network in one attempt; the reference has one more
BLOCK_MS = 40.0  # a block is at least this long, so that one scheduling hiccup is not a block
MAX_DRIFT = 0.03  # a block is rejected if the reference moved more than this across it
SETTLE_CALLS = 2  # uncounted calls at the start of a block: the other network emptied the caches
WARM_UP_CALLS = 10
WARM_UP_MS = 1000.0

Stopwatch = Callable[[], float]  # runs a network once and returns the milliseconds it took


class TooNoisy(RuntimeError):
    """The machine was too restless for a number; not an error of the network."""


@dataclass(frozen=True)
class Latency:
    """One measurement. ``median_ms``, ``p10_ms`` and ``p90_ms`` are reference-corrected.

    spread: interquartile range / median of the corrected calls. raw_median_ms: what the clock said.
    reference_ms: the time of the reference network in which the corrected values are expressed.
    repeats: counted calls. fingerprint: see `evaluators.device.fingerprint`.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    spread: float
    raw_median_ms: float
    reference_ms: float
    repeats: int
    fingerprint: Fingerprint


# The reference's time per kind of device use, fixed by the first measurement of this process, so
# that all values of one process are in one unit.
_reference_ms: dict[str, float] = {}


def measure_latency(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    runtime: str = "eager",
    dtype: str = "float32",
    channels_last: bool = False,
    threads: int = 1,
    repeats: int = 100,
    max_spread: float = 0.15,
    retries: int = 3,
    reference_ms: float | None = None,
) -> Latency:
    """Milliseconds of one forward pass of ``model`` on a batch of ``input_shape`` (B, C, H, W).

    A copy of the model runs in eval mode under `torch.inference_mode`; the model itself is not
    changed. Preparing (compiling, exporting) holds the device shared, timing holds it exclusively;
    do not call this inside ``shared_device``. PyTorch's number of threads is set to ``threads`` and
    restored. On CUDA the time is that between two events around the call on an idle stream.

    The reference network runs eagerly with the same device, dtype, layout and threads. With r_k the
    mean of the medians of the two reference blocks around block k, and R the reference's long-run
    time, a call of t ms in block k counts as R * t / r_k. R is ``reference_ms`` if given (pass the
    one of an earlier `Latency` to put values of several processes in one unit), else the median
    over the reference blocks of this process's first measurement with the same settings.

    Each attempt has at least ``repeats`` counted calls; it is discarded if more than half of its
    blocks saw the reference drift by more than 3 % or if the spread exceeds ``max_spread``.

    Raises TooNoisy when the first attempt and all ``retries`` were discarded, and UserError for an
    unknown runtime or dtype, or a package or compiler that is missing.
    """
    device = torch.device(device)
    settings = {"device": device, "dtype": dtype, "channels_last": channels_last}
    about = fingerprint(input_shape, runtime=runtime, threads=threads, **settings)  # type: ignore[arg-type]
    example = _example(input_shape, device, dtype)
    with _torch_threads(threads), torch.inference_mode():
        with shared_device(device):
            program = prepare(
                model, example, runtime, threads=threads, channels_last=channels_last
            )
            image = _example(REFERENCE_SHAPE, device, dtype)
            reference = prepare(
                reference_network(), image, "eager", channels_last=channels_last
            )
        # onnxruntime returns when the device is done and does not use PyTorch's stream.
        by_events = device.type == "cuda" and runtime != "onnxruntime"
        unit = fingerprint_key(
            fingerprint(REFERENCE_SHAPE, threads=threads, **settings)  # type: ignore[arg-type]
        )
        with exclusive_device(device):
            measured = measure_interleaved(
                _event_stopwatch(program) if by_events else _wall_stopwatch(program),
                _event_stopwatch(reference) if device.type == "cuda" else _wall_stopwatch(reference),
                repeats=repeats,
                max_spread=max_spread,
                retries=retries,
                reference_ms=reference_ms or _reference_ms.get(unit),
            )
    _reference_ms.setdefault(unit, measured.reference_ms)
    corrected = measured.corrected_ms
    p10, p25, median, p75, p90 = np.percentile(corrected, [10, 25, 50, 75, 90]).tolist()
    return Latency(
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        spread=(p75 - p25) / median,
        raw_median_ms=measured.raw_median_ms,
        reference_ms=measured.reference_ms,
        repeats=len(corrected),
        fingerprint=about,
    )


@dataclass(frozen=True)
class Interleaved:
    """The counted calls of an accepted attempt, in ms; corrected as `measure_latency` says."""

    corrected_ms: tuple[float, ...]
    raw_median_ms: float
    reference_ms: float


def measure_interleaved(
    network: Stopwatch,
    reference: Stopwatch,
    *,
    repeats: int,
    max_spread: float,
    retries: int,
    reference_ms: float | None = None,
) -> Interleaved:
    """Warm up, then time blocks of ``network`` between blocks of ``reference``.

    It knows no clock and no device, only two stop-watches. Raises TooNoisy, see `measure_latency`.
    """
    network_calls = _calls_per_block(_warm_up(network), at_least=-(-repeats // BLOCKS))
    reference_calls = _calls_per_block(_warm_up(reference), at_least=3)
    complaints = []
    for _ in range(1 + retries):
        marks = [_block(reference, reference_calls)]
        blocks = []
        for _ in range(BLOCKS):
            blocks.append(_block(network, network_calls))
            marks.append(_block(reference, reference_calls))
        units = [statistics.median(mark) for mark in marks]
        kept = [
            (block, (before + after) / 2)
            for block, before, after in zip(blocks, units, units[1:])
            if abs(after - before) <= MAX_DRIFT * (before + after) / 2
        ]
        if len(kept) < BLOCKS / 2:
            moved = max(units) / min(units) - 1
            complaints.append(
                f"the reference drifted in {BLOCKS - len(kept)} of {BLOCKS} blocks "
                f"(its medians differ by {moved:.0%})"
            )
            continue
        ratios = [time_ms / unit for block, unit in kept for time_ms in block]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        if (high - low) / middle > max_spread:
            complaints.append(
                f"spread {(high - low) / middle:.3f} of {len(ratios)} calls exceeds {max_spread}"
            )
            continue
        long_run = statistics.median(units) if reference_ms is None else reference_ms
        return Interleaved(
            corrected_ms=tuple(long_run * ratio for ratio in ratios),
            raw_median_ms=statistics.median(time_ms for block, _ in kept for time_ms in block),
            reference_ms=long_run,
        )
    raise TooNoisy(f"no quiet measurement in {len(complaints)} attempts: " + "; ".join(complaints))


def _warm_up(stopwatch: Stopwatch) -> float:
    """Call until the median of ten calls moves by less than 1 %, or for a second; returns it."""
    previous, spent = float("inf"), 0.0
    while True:
        times = []
        while len(times) < WARM_UP_CALLS and spent < WARM_UP_MS:
            times.append(stopwatch())
            spent += times[-1]
        if not times:
            return previous
        median = statistics.median(times)
        if abs(median - previous) <= 0.01 * median:
            return median
        previous = median


def _calls_per_block(call_ms: float, at_least: int) -> int:
    return max(at_least, round(BLOCK_MS / call_ms))


def _block(stopwatch: Stopwatch, calls: int) -> list[float]:
    for _ in range(SETTLE_CALLS):
        stopwatch()
    return [stopwatch() for _ in range(calls)]


def _wall_stopwatch(program: Program) -> Stopwatch:
    def stopwatch() -> float:
        start = time.perf_counter_ns()
        program()
        return (time.perf_counter_ns() - start) / 1e6

    return stopwatch


def _event_stopwatch(program: Program) -> Stopwatch:
    def stopwatch() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        program()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    return stopwatch


REFERENCE_SHAPE = (1, 3, 32, 32)


def reference_network() -> nn.Module:
    """Five convolutions at 32 px: about a millisecond on one CPU core. Never change it."""
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for in_channels, out_channels in ((3, 32), (32, 32), (32, 32), (32, 32), (32, 32)):
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, generator=generator)
        layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _example(shape: Sequence[int], device: torch.device, dtype: str) -> torch.Tensor:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UserError(f"dtype: {dtype!r} is unknown; choose float32, bfloat16 or float16")
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device, kind)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Ray leaves every worker with one thread, so the number is always set, never inherited."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
