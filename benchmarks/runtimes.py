"""Whether runtimes rank architectures alike, on the space of a preset.

    python benchmarks/runtimes.py                 # 30 architectures of cifar10_cpu; some minutes
    python benchmarks/runtimes.py --compile       # torch.compile too: a minute or so a network more
    python benchmarks/runtimes.py --show          # the tables of the record
    python benchmarks/runtimes.py --networks 3 --out /tmp/smoke.json    # a smoke test

Every architecture is timed under each runtime in turn, so drift hits all alike; two passes under
the first runtime say what agreement a runtime has with itself. OpenVINO runs our operators by the
extension, as does `onnxruntime_operators`; what is not installed is left out. Kendall's tau with a
bootstrap interval (95 %) over the architectures. A second table has what a layer adds, by least
squares over the same networks. The record is written as JSON after each
architecture; started again, with the same options on the same machine, it goes on from there, and a
finished record is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import evolute
from configs.atomic import write_atomically
from evaluators.runtimes import runtime_version
from experiments.measure_runtimes import installed_runtimes

console = Console(width=100)
RECORD = Path("docs/results/runtimes.json")
RUNTIMES = ("eager", "onnxruntime", "onnxruntime_operators", "openvino")  # those that are here


def draw(space: evolute.SearchSpace, count: int) -> list[evolute.Architecture]:
    """Return different random architectures, the same ones each time."""
    rng = np.random.default_rng(0)
    return list({space.sample(rng): None for _ in range(3 * count)})[:count]


def measure(
    config: evolute.Config,
    space: evolute.SearchSpace,
    architectures: list[evolute.Architecture],
    record: dict[str, Any],
    out: Path,
) -> None:
    """Complete the milliseconds of a record, a list for each runtime in the architectures' order.

    The record is written after each architecture. A unit that it has is used further.
    """
    shape = (space.in_channels, space.input_size, space.input_size)
    times = record["milliseconds"]
    settings = dataclasses.replace(config.latency, max_spread=1.0)
    done = min(map(len, times.values()))
    for number, architecture in enumerate(architectures[done:], start=done + 1):
        torch.manual_seed(0)
        network = evolute.build_network(space, architecture)
        for name, values in times.items():
            chosen = dataclasses.replace(settings, runtime=name.split()[0])
            latency = evolute.measure_latency(
                network, shape, chosen, reference_ms=record["reference_ms"]
            )
            record["reference_ms"] = record["reference_ms"] or latency.reference_ms
            values.append(latency.median_ms)
        write_atomically(out, json.dumps(record, indent=1) + "\n")
        name = " ".join(architecture)
        console.print(f"{number}/{len(architectures)}: {name}", highlight=False)


def begin(
    arguments: argparse.Namespace, config: evolute.Config, architectures: list[evolute.Architecture]
) -> dict[str, Any]:
    """Return the record of the file where it is of the same question, or else a new one."""
    wanted = [*RUNTIMES, *(["compile"] if arguments.compile else [])]
    runtimes = [name for name in wanted if name in installed_runtimes()]
    question = {
        "preset": arguments.preset,
        "space": hashlib.sha256(repr(config.space).encode()).hexdigest()[:16],
        "device": evolute.fingerprint((3, 32, 32), evolute.LatencySettings())["device"],
        "torch": torch.__version__,
        "versions": {name: runtime_version(name) for name in runtimes},
        "extension": "openvino" in runtimes and evolute.openvino_extension() is not None,
        "architectures": ["/".join(architecture) for architecture in architectures],
    }
    if arguments.out.exists():
        kept = json.loads(arguments.out.read_text())
        if {key: kept.get(key) for key in question} == question:
            return kept
    return {
        "date": datetime.date.today().isoformat(),
        **question,
        "reference_ms": None,
        "milliseconds": {name: [] for name in (*runtimes, f"{RUNTIMES[0]} again")},
        "tau": {},
    }


def agreement(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Return Kendall's tau, and the ends of its bootstrap interval over the architectures."""
    rng = np.random.default_rng(0)
    a, b = np.array(first), np.array(second)
    draws = (rng.integers(len(a), size=len(a)) for _ in range(2000))
    taus = [kendalltau(a[chosen], b[chosen]).statistic for chosen in draws]
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    return float(kendalltau(a, b).statistic), float(low), float(high)


def layer_costs(
    architectures: list[str], milliseconds: list[float]
) -> tuple[dict[str, float], float]:
    """Return what a layer of each candidate adds (ms), and the share of variance it explains.

    Least squares, with what all networks have in common as the intercept; ``skip`` adds nothing.
    """
    layers = [architecture.split("/") for architecture in architectures]
    names = sorted({name for network in layers for name in network} - {"skip"})
    counts = np.array([[1, *(network.count(name) for name in names)] for network in layers])
    values = np.array(milliseconds)
    fit, *_ = np.linalg.lstsq(counts, values, rcond=None)
    explained = 1 - np.var(values - counts @ fit) / np.var(values)
    return dict(zip(names, fit[1:].tolist(), strict=True)), float(explained)


def tables(record: dict[str, Any]) -> None:
    """Print how the runtimes agree, and what a layer costs in each; note the agreement."""
    times = record["milliseconds"]
    base = times[RUNTIMES[0]]
    agreements = Table(title=f"{len(base)} architectures of {record['preset']}")
    for column in ("runtime", "median ms", "median ratio", "range of ratios", "tau (95 %)"):
        agreements.add_column(column, justify="left" if column == "runtime" else "right")
    for name, values in times.items():
        ratios = np.array(values) / np.array(base)
        tau, low, high = record["tau"][name] = agreement(base, values)
        agreements.add_row(
            name,
            f"{np.median(values):.2f}",
            f"{np.median(ratios):.2f}",
            f"{ratios.min():.2f} .. {ratios.max():.2f}",
            f"{tau:.2f} ({low:.2f} .. {high:.2f})",
        )
    console.print(agreements)
    fits = {name: layer_costs(record["architectures"], values) for name, values in times.items()}
    names = list(fits[RUNTIMES[0]][0])
    layers = Table("runtime", "explained", *names, title="ms that a layer adds")
    for name, (costs, explained) in fits.items():
        layers.add_row(name, f"{explained:.2f}", *(f"{costs[each]:.2f}" for each in names))
    console.print(layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cifar10_cpu")
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--show", action="store_true", help="print a record, measure nothing")
    arguments = parser.parse_args()
    if arguments.show:
        tables(json.loads(arguments.out.read_text()))
        return
    config = evolute.load_config(arguments.preset)
    space = evolute.SearchSpace(config.space)
    architectures = draw(space, arguments.networks)
    record = begin(arguments, config, architectures)
    measure(config, space, architectures, record, arguments.out)
    tables(record)
    write_atomically(arguments.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
