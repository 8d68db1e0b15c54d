"""One network in every runtime that is installed: what it costs there, and whether it is the same.

Batches of 1 and 8 images, one thread and two: the order of networks differs between these, and a
search should be asked for the one in which they will run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from configs.errors import TooNoisy, UserError
from configs.latency import LatencySettings
from evaluators import Latency
from evaluators.latency import measure_program
from evaluators.runtime import Program, as_array, prepare
from evaluators.runtimes import RUNTIMES
from evaluators.threads import torch_threads
from experiments.console import step_progress
from experiments.devices import resolve_device
from experiments.measure import networks_of

if TYPE_CHECKING:
    from rich.table import Table

BATCHES, THREADS = (1, 8), (1, 2)


@dataclass(frozen=True)
class InRuntime:
    """A network in a runtime, at a batch and a number of threads.

    Attributes:
        latency: None where it could not be measured; `trouble` says why.
        difference: The largest difference of logits to those of ``eager`` on the same images, as a
            share of the largest logit; None where a runtime does not give them.
    """

    network: str
    runtime: str
    batch: int
    threads: int
    latency: Latency | None
    difference: float | None
    trouble: str = ""

    def as_values(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return dataclasses.asdict(self)


def installed_runtimes() -> list[str]:
    """Return the names of the runtimes whose packages are here, `eager` first."""
    names = []
    for name in RUNTIMES:
        try:
            RUNTIMES[name].version()
        except UserError:
            continue
        names.append(name)
    return sorted(names, key=lambda name: (name != "eager", name))


def measure_everywhere(
    targets: Sequence[str],
    settings: LatencySettings | None = None,
    *,
    device: str = "auto",
    input_size: int | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    on_row: Callable[[InRuntime, int, int], None] = lambda *_: None,
) -> list[InRuntime]:
    """Time the network(s) behind names in all installed runtimes; see `measure` for names.

    Two threads only where there are two cores. A runtime that cannot run a network is a row that
    says so.

    Args:
        settings: Runtime, batch and threads of it are not used.
        on_row: Called with each row, how many there are by then, and how many there will be.

    Raises:
        UserError: A target is unknown.
    """
    settings, place = settings or LatencySettings(), resolve_device(device)
    counts = [count for count in THREADS if count <= (os.cpu_count() or 1)]
    networks = [each for target in targets for each in networks_of(target, overrides, plugins)]
    cases = list(itertools.product(networks, installed_runtimes(), BATCHES, counts))
    rows: list[InRuntime] = []
    for (name, network, (channels, *size)), runtime, batch, threads in cases:
        shape = (channels, *((input_size, input_size) if input_size else size))
        chosen = dataclasses.replace(settings, runtime=runtime, batch=batch, threads=threads)
        rows.append(
            InRuntime(name, runtime, batch, threads, *_measure(network, shape, chosen, place))
        )
        on_row(rows[-1], len(rows), len(cases))
    return rows


def _measure(
    network: nn.Module, shape: tuple[int, ...], settings: LatencySettings, device: torch.device
) -> tuple[Latency | None, float | None, str]:
    """Return the latency, how far the logits are from eager's, and what stood in the way."""
    made: list[tuple[torch.Tensor, Program]] = []  # exported or compiled once for both

    def make(example: torch.Tensor) -> Program:
        made.append((example, prepare(network, example, settings)))
        return made[-1][1]

    latency, trouble = None, ""
    try:
        latency = measure_program(make, shape, settings, device=device)
    except (TooNoisy, UserError) as error:
        trouble = str(error)
    except Exception as error:  # exporters, compilers and runtimes raise many kinds
        trouble = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return latency, _difference(network, settings, *made[-1]) if made else None, trouble


@torch.inference_mode()
def _difference(
    network: nn.Module, settings: LatencySettings, example: torch.Tensor, program: Program
) -> float | None:
    with torch_threads(settings.threads):
        expected = as_array(
            prepare(network, example, dataclasses.replace(settings, runtime="eager"))()
        )
        found = as_array(program())
    if expected is None or found is None or found.shape != expected.shape:
        return None
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


def measure_with_progress(
    targets: Sequence[str], settings: LatencySettings, **options: Any
) -> list[InRuntime]:
    """Do as `measure_everywhere`, and show how far it is."""
    with contextlib.ExitStack() as stack:
        advance: Callable[[int, str], None] | None = None

        def show(row: InRuntime, done: int, total: int) -> None:
            nonlocal advance
            if advance is None:
                advance = stack.enter_context(step_progress("measurements", total))
            advance(done, f"{row.network} in {row.runtime}")

        return measure_everywhere(targets, settings, **options, on_row=show)


def runtimes_table(rows: Sequence[InRuntime]) -> Table:
    """Return the rows for a terminal, each beside ``eager`` of the same batch and threads."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    eager = {(r.network, r.batch, r.threads): r.latency for r in rows if r.runtime == "eager"}
    table = Table(box=SIMPLE_HEAD)
    for column in ("network", "runtime", "batch", "threads", "ms", "spread", "/ eager", "logits"):
        words = column in ("network", "runtime")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words)
    table.caption = (
        "ms: of a batch. logits: largest difference to eager, as a share of the largest logit."
    )
    for row in rows:
        base = eager.get((row.network, row.batch, row.threads))
        timed = [row.trouble.split(":")[0].split(";")[0] or "too busy", "", ""]
        if row.latency is not None:
            ratio = "" if base is None else f"{row.latency.median_ms / base.median_ms:.2f}"
            timed = [f"{row.latency.median_ms:.3f}", f"{row.latency.spread:.1%}", ratio]
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        table.add_row(
            row.network, row.runtime, str(row.batch), str(row.threads), *timed, difference
        )
    return table
