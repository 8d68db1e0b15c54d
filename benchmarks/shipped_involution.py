"""What an involution costs over a 3x3 convolution of the same shape, in each runtime that ships it.

    python benchmarks/shipped_involution.py            # a minute or two, on an idle machine
    python benchmarks/shipped_involution.py --quick    # a smoke test; writes no record
    python benchmarks/shipped_involution.py --table    # the record
    python benchmarks/shipped_involution.py --json FILE     # the record, in another file

Batch 1, one thread, float32; whole operators (an involution with the convolutions that make its
kernels). Both are timed in turns with a reference network, several times over; printed is the
median of the ratios and their range. ONNX Runtime runs our operators where its headers are
(`evaluators/runtimes/onnxruntime_operators.py`). The record is
docs/results/shipped_involution.json: all ratios, and of each form and shape the median, the least,
the greatest, and the distance of the quartiles as a share of the median.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table
from torch import nn

from configs.atomic import write_atomically
from configs.errors import UserError
from evaluators import LatencySettings, measure_latency
from evaluators.fingerprint import device_name
from evaluators.runtimes import openvino, runtime_version
from search_space import build_operator

RECORD = Path(__file__).parent.parent / "docs" / "results" / "shipped_involution.json"
SHAPES = ((64, 32), (128, 28), (256, 14))  # channels and side
BARS = {(64, 32): 0.6, (128, 28): 0.4, (256, 14): 0.3}  # of the extension
FORMS = {  # what is timed, and in which runtime
    "PyTorch": "eager",
    "OpenVINO, standard graph": "openvino",
    "OpenVINO, our operators": "openvino",
    "ONNX Runtime, standard graph": "onnxruntime",
    "ONNX Runtime, our operators": "onnxruntime_operators",
}


def network(operator: str, channels: int, **options: int) -> nn.Module:
    return build_operator(operator, channels, channels, 1, **options).eval()


def is_here(form: str) -> bool:
    """Return whether what a form needs is installed."""
    try:
        runtime_version(FORMS[form])
    except UserError as error:
        print(f"{form} is left out: {error}")
        return False
    return True


def ratio(form: str, channels: int, side: int) -> float:
    """Return the latency of a 7x7 involution over that of a 3x3 convolution."""
    settings = LatencySettings(runtime=FORMS[form], max_spread=0.5)
    shape = (channels, side, side)
    times = [
        measure_latency(each, shape, settings).median_ms
        for each in (
            network("involution", channels, kernel_size=7),
            network("convolution", channels, kernel_size=3),
        )
    ]
    return times[0] / times[1]


def measure(rounds: int) -> dict[str, Any]:
    ratios: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for form in filter(is_here, FORMS):
            without = mock.patch.object(openvino, "_library", lambda: None)
            with without if "standard" in form else contextlib.nullcontext():
                for channels, side in SHAPES:
                    found = ratios.setdefault(form, {}).setdefault(f"{channels} at {side}", [])
                    found.append(ratio(form, channels, side))
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name("cpu"),
        "settings": {"kernel_size": 7, "batch": 1, "threads": 1, "dtype": "float32"},
        "ratios": ratios,
        "summary": {
            form: {shape: summary(values) for shape, values in columns.items()}
            for form, columns in ratios.items()
        },
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return the median of ratios, their range, and their spread."""
    middle, ordered = statistics.median(values), sorted(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (middle,) * 3
    spread = (high - low) / middle
    return {"median": middle, "least": ordered[0], "greatest": ordered[-1], "spread": spread}


def table(record: dict[str, Any]) -> Table:
    shown = Table(title=f"{record['device']}, {record['date']}")
    shown.add_column("inv7 over conv3")
    for channels, side in SHAPES:
        shown.add_column(f"{channels} at {side} (bar {BARS[channels, side]})")
    for form, columns in record["ratios"].items():
        cells = [
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in columns.values()
        ]
        shown.add_row(form, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="What an involution costs where networks ship.")
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no record")
    parser.add_argument("--table", action="store_true", help="print the record")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    console = Console(width=110)
    if arguments.table:
        console.print(table(json.loads((arguments.json or RECORD).read_text())))
        return
    record = measure(1 if arguments.quick else 5)
    console.print(table(record))
    if file := arguments.json or (None if arguments.quick else RECORD):
        write_atomically(file, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
