"""Latency, measured like a physical quantity.

A computer's speed drifts: clocks change, neighbours come and go. So blocks of calls of the network
are interleaved with blocks of a small, fixed *reference network*, and every call is expressed in
units of the reference's time right before and after it. What slows both cancels.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from configs.errors import TooNoisy
from configs.latency import LatencySettings
from evaluators.device_lock import exclusive_device, shared_device
from evaluators.fingerprint import Fingerprint, fingerprint, fingerprint_key
from evaluators.reference import REFERENCE_SHAPE, reference_network
from evaluators.runtime import Program
from evaluators.runtimes import RUNTIMES, prepare
from evaluators.stopwatch import Stopwatch, event_stopwatch, wall_stopwatch
from evaluators.threads import torch_threads

# Short blocks follow the machine closely. On a busy virtual machine, one network's value scattered
# by 1-2 % (standard deviation) with blocks of 8 ms, 5 % with blocks of 40 ms, 10 % uncorrected.
BLOCKS = 60
LEAST_BLOCKS = 12  # before a measurement may be precise: of fewer, the error itself is not known
BLOCK_MS = 8.0
DRIFT_SHARE = 0.5  # of max_spread, that the reference may move across a block that counts
REFERENCE_CALLS = 5  # at least, in a block: the median of fewer is itself noisy
WARM_UP_CALLS = 10
WARM_UP_MS = 1000.0

_units_of_process: dict[str, float] = {}  # the reference's fingerprint -> ms; see `measure_latency`


@dataclass(frozen=True)
class Latency:
    """One measurement. ``median_ms``, ``p10_ms`` and ``p90_ms`` are reference-corrected.

    spread: interquartile range / median of the corrected calls. raw_median_ms: what the clock said.
    reference_ms: the time of the reference network in which the corrected values are expressed.
    repeats: counted calls. fingerprint: see `evaluators.fingerprint`.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    spread: float
    raw_median_ms: float
    reference_ms: float
    repeats: int
    fingerprint: Fingerprint


def measure_latency(
    model: nn.Module,
    image_shape: Sequence[int],
    settings: LatencySettings | None = None,
    *,
    device: str | torch.device = "cpu",
    reference_ms: float | None = None,
) -> Latency:
    """Measure the milliseconds of one forward pass of ``model`` on a batch of images.

    A copy of the model runs in eval mode under `torch.inference_mode`; the model itself is not
    changed. Preparing (compiling, exporting) holds the device shared, timing holds it exclusively;
    do not call this inside ``shared_device``. PyTorch's number of threads is set and restored. On
    CUDA the time is that between two events around the call on an idle stream; on the CPU, calls
    that the kernel interrupted for another process are repeated.

    The reference network runs eagerly with the same device, dtype, layout and threads. With r_k the
    mean of the medians of the two reference blocks around block k, and R the reference's long-run
    time, a call of t ms in block k counts as R * t / r_k. R is ``reference_ms`` if given: a study
    stores its own and passes it with every measurement, so its values compare across processes,
    workers and days, even if the machine has become slower meanwhile. Without it R is the median
    over the reference blocks of this process's first measurement with these settings, so values
    compare within a process; pass the ``reference_ms`` of an earlier `Latency` to compare with
    that. ``raw_median_ms`` is what it takes at this moment.

    An attempt counts at least ``settings.repeats`` calls, in up to 60 blocks of at least 8 ms:
    about a second for networks of some milliseconds. It ends sooner, after 12 blocks at the
    soonest, once the standard error of the median is below ``settings.precision``: that of the
    median of the blocks' medians, were these normal and independent. An attempt is discarded if the
    spread (interquartile range / median) of its corrected calls exceeds ``settings.max_spread``, or
    if the reference drifted by more than half of that across more than half of its blocks. After a
    growing pause the next one follows.

    Args:
        image_shape: (C, H, W) of one image; the batch is ``settings.batch``.
        settings: Default is `LatencySettings()`.
        reference_ms: The unit, see above; default is that of this process.

    Raises:
        TooNoisy: The first attempt and all ``settings.retries`` were discarded.
        UserError: The runtime does not exist, or a package or compiler that it needs is missing.
    """
    chosen = settings or LatencySettings()
    return measure_program(
        lambda example: prepare(model, example, chosen),
        image_shape,
        chosen,
        device=device,
        reference_ms=reference_ms,
    )


def measure_program(
    make: Callable[[torch.Tensor], Program],
    image_shape: Sequence[int],
    settings: LatencySettings,
    *,
    device: str | torch.device = "cpu",
    reference_ms: float | None = None,
) -> Latency:
    """Measure a program as `measure_latency` does, such as one that comes from a file.

    Args:
        make: Called once with the example that the program will run on: (B, C, H, W) of the
            settings' dtype, on the device. ``settings.runtime`` says what runs it.

    Raises:
        TooNoisy: As for `measure_latency`.
        UserError: Likewise.
    """
    device = torch.device(device)
    eager = _reference_settings(settings)
    network_fingerprint = fingerprint(image_shape, settings, device)
    unit = fingerprint_key(fingerprint(REFERENCE_SHAPE[1:], eager, device))
    example = _example((settings.batch, *image_shape), device, settings.dtype)
    with torch_threads(settings.threads), torch.inference_mode():
        with shared_device(device):
            program = make(example)
            image = _example(REFERENCE_SHAPE, device, settings.dtype)
            reference = prepare(reference_network(), image, eager)
        enqueues = device.type == "cuda" and not RUNTIMES[settings.runtime].synchronous
        watches = (
            event_stopwatch(program) if enqueues else wall_stopwatch(program),
            event_stopwatch(reference) if device.type == "cuda" else wall_stopwatch(reference),
        )

        def attempt() -> Interleaved:
            with exclusive_device(device):
                return measure_interleaved(
                    *watches,
                    repeats=settings.repeats,
                    max_spread=settings.max_spread,
                    precision=settings.precision,
                    reference_ms=reference_ms or _units_of_process.get(unit),
                )

        measured = until_quiet(attempt, settings.retries)
    if reference_ms is None:
        _units_of_process[unit] = measured.reference_ms
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
        fingerprint=network_fingerprint,
    )


def measure_reference(
    settings: LatencySettings | None = None, *, device: str | torch.device = "cpu"
) -> float:
    """Return the milliseconds of the reference network: the unit for a new study's latencies.

    Raises:
        TooNoisy: As for `measure_latency`.
    """
    settings = _reference_settings(settings or LatencySettings())
    network, image_shape = reference_network(), REFERENCE_SHAPE[1:]
    return measure_latency(network, image_shape, settings, device=device).reference_ms


def _reference_settings(settings: LatencySettings) -> LatencySettings:
    return dataclasses.replace(settings, runtime="eager", batch=REFERENCE_SHAPE[0])


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
    precision: float = 0.0,
    reference_ms: float | None = None,
) -> Interleaved:
    """One attempt: warm up, then time blocks of ``network`` between blocks of ``reference``.

    It knows no clock and no device, only two stopwatches.

    Raises:
        TooNoisy: The attempt is discarded, see `measure_latency`.
    """
    blocks = min(BLOCKS, repeats)
    calls = max(-(-repeats // blocks), round(BLOCK_MS / _warm_up(network)))
    reference_calls = max(REFERENCE_CALLS, round(BLOCK_MS / _warm_up(reference)))
    units = [statistics.median(_block(reference, reference_calls))]
    times: list[list[float]] = []
    max_drift = DRIFT_SHARE * max_spread
    kept: list[tuple[list[float], float]] = []  # blocks, and the reference's time around each
    while len(times) < blocks and not (len(kept) >= LEAST_BLOCKS and _error(kept) < precision):
        times.append(_block(network, calls))
        units.append(statistics.median(_block(reference, reference_calls)))
        before, after = units[-2:]
        if abs(after - before) <= max_drift * (before + after) / 2:
            kept.append((times[-1], (before + after) / 2))
    if len(kept) < len(times) / 2:
        raise TooNoisy(
            f"the reference network drifted by more than {max_drift:.0%} across "
            f"{len(times) - len(kept)} of {len(times)} blocks"
        )
    ratios = [milliseconds / unit for block, unit in kept for milliseconds in block]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    if (high - low) / middle > max_spread:
        raise TooNoisy(
            f"the spread of {len(ratios)} calls is {(high - low) / middle:.2f}, "
            f"more than max_spread {max_spread}"
        )
    long_run = statistics.median(units) if reference_ms is None else reference_ms
    return Interleaved(
        corrected_ms=tuple(long_run * ratio for ratio in ratios),
        raw_median_ms=statistics.median(chain.from_iterable(block for block, _ in kept)),
        reference_ms=long_run,
    )


def _error(kept: Sequence[tuple[list[float], float]]) -> float:
    """The relative standard error of the median of the blocks' corrected medians."""
    values = [statistics.median(block) / unit for block, unit in kept]
    low, middle, high = np.percentile(values, [25, 50, 75])
    # sqrt(pi / 2) deviations over sqrt(n); 1.349 deviations of a normal distribution are its range
    return math.sqrt(math.pi / 2 / len(values)) * (high - low) / 1.349 / middle


def until_quiet(
    attempt: Callable[[], Interleaved],
    retries: int,
    pause: Callable[[float], None] = time.sleep,
) -> Interleaved:
    """Return the first attempt that is not too noisy.

    Raises:
        TooNoisy: All were; the message has every attempt's reason.
    """
    reasons = []
    for retry in range(1 + retries):
        if retry:
            pause(0.5 * 2 ** (retry - 1))  # seconds: let the neighbour finish
        try:
            return attempt()
        except TooNoisy as noise:
            reasons.append(str(noise))
    raise TooNoisy(f"no quiet measurement in {len(reasons)} attempts: " + "; ".join(reasons))


def _warm_up(stopwatch: Stopwatch) -> float:
    """Call until the median of ten calls falls by at most 1 %, or for a second; returns it."""
    previous, spent = float("inf"), 0.0
    while True:
        times: list[float] = []
        while not times or (len(times) < WARM_UP_CALLS and spent < WARM_UP_MS):
            times.append(stopwatch())
            spent += times[-1]
        median = statistics.median(times)
        if median >= 0.99 * previous or spent >= WARM_UP_MS:
            return median
        previous = median


def _block(stopwatch: Stopwatch, calls: int) -> list[float]:
    stopwatch()  # not counted: the other network has emptied the caches
    return [stopwatch() for _ in range(calls)]


def _example(shape: Sequence[int], device: torch.device, dtype: str) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return values.to(device, getattr(torch, dtype))
