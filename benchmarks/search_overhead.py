"""What a search itself costs, beside its evaluations.

    python benchmarks/search_overhead.py             # some minutes, on an idle machine
    python benchmarks/search_overhead.py --quick     # a smoke test; writes no record
    python benchmarks/search_overhead.py --table     # the record

1. Overhead: trials of 20 layers whose evaluator does nothing, 2 workers, a study in SQLite, every
   trial tracked in MLflow; the median time between two records, among the first 100 and the last
   100, and the growth of the driver's memory a trial.
2. Scaling: 16 workers that sleep two seconds a trial, against 16 times the rate of one.
3. Start: seconds from the call to the first record, with Ray and without.

The record is docs/results/search_overhead.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import tempfile
import time
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.atomic import write_atomically
from evaluators.fingerprint import device_name
from experiments.tracking.tracker import Tracker
from experiments.tracking.trials import track_progress, track_trial
from search import SearchProgress, TrialRecord, run_search
from search_space import Architecture, ChoiceSpace

RECORD = Path(__file__).parent.parent / "docs" / "results" / "search_overhead.json"
SPACE = ChoiceSpace([("a", "b", "c", "d", "e")] * 20)
OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
TRIALS, SLEEP_S, SLEEPERS = 3000, 2.0, 16
ENDS = 100  # trials at either end


class Evaluator:
    """Sleeps, or does nothing; the values are functions of the architecture."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        time.sleep(self.seconds)
        name = "".join(architecture)
        cost = float(sum(map(ord, name)) - 97 * len(name))
        luck = zlib.crc32(name.encode()) / 2**32  # without it, no network would dominate another
        return {"accuracy": 50 + cost**0.5 + 10 * luck, "latency_ms": cost}


def overhead(trials: int, tracked: bool) -> dict[str, Any]:
    """Return the medians between two records, and the growth of memory, of one search."""
    times, memory = [], []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        tracker = Tracker(
            directory, uri=None, experiment="overhead", run_name="overhead", tags={}, params={}
        )

        def on_trial(record: TrialRecord, progress: SearchProgress) -> None:
            if tracked:
                track_trial(tracker, record)
                track_progress(tracker, progress)
            times.append(time.perf_counter())
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kB

        with tracker:
            run_search(
                SPACE,
                Evaluator(),
                OBJECTIVES,
                trials=trials,
                sampler="evolution",
                workers=2,
                storage=directory / "study.db",
                on_trial=on_trial,
                progress=False,
            )
    gaps = [1000 * (after - before) for before, after in pairwise(times)]
    grown = memory[-1] - memory[len(memory) // 10]  # what is loaded at the beginning is no growth
    ends = min(ENDS, len(gaps) // 2)
    return {
        "trials": trials,
        "tracked": tracked,
        "first_ms": statistics.median(gaps[:ends]),
        "last_ms": statistics.median(gaps[-ends:]),
        "last_quartiles_ms": statistics.quantiles(gaps[-ends:], n=4)[::2],
        "kb_per_trial": grown / (len(memory) - len(memory) // 10),
    }


def rate(workers: int, trials: int) -> float:
    """Return trials a second of workers that sleep, from the first record on."""
    times: list[float] = []
    run_search(
        SPACE,
        Evaluator(SLEEP_S),
        OBJECTIVES,
        trials=trials + workers,
        sampler="random",
        workers=workers,
        cpus_per_worker=0.1,
        on_trial=lambda record, progress: times.append(time.perf_counter()),
        progress=False,
    )
    kept = times[workers:]  # workers start one after the other
    return (len(kept) - 1) / (kept[-1] - kept[0])


def start(workers: int) -> float:
    """Return the seconds from the call of a search to its first record."""
    begun, first = time.perf_counter(), list[float]()
    run_search(
        SPACE,
        Evaluator(),
        OBJECTIVES,
        trials=4,
        workers=workers,
        on_trial=lambda record, progress: first.append(time.perf_counter()),
        progress=False,
    )
    return first[0] - begun


def measure(trials: int, each: int) -> dict[str, Any]:
    """Run all parts."""
    runs = [overhead(trials, tracked) for tracked in (True, False)]
    one, many = rate(1, each), rate(SLEEPERS, SLEEPERS * each)
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name("cpu"),
        "load": os.getloadavg()[0],
        "overhead": runs,
        "rate_of_one": one,
        "rate_of_sixteen": many,
        "start_ray_s": [start(2) for _ in range(3)],
        "start_local_s": [start(0) for _ in range(3)],
    }


def table(record: dict[str, Any]) -> Table:
    shown = Table(title=f"{record['device']}, {record['date']}")
    for column in ("what", "measured", "bound"):
        shown.add_column(column)
    for run in record["overhead"]:
        how = "with MLflow" if run["tracked"] else "without MLflow"
        bounds = ("50 ms", "60 ms", "20 kB") if run["tracked"] else ("", "", "")
        shown.add_row(f"first {ENDS} trials, {how}", f"{run['first_ms']:.0f} ms", bounds[0])
        shown.add_row(
            f"last {ENDS} of {run['trials']}, {how}", f"{run['last_ms']:.0f} ms", bounds[1]
        )
        shown.add_row(f"driver's memory a trial, {how}", f"{run['kb_per_trial']:.0f} kB", bounds[2])
    share = record["rate_of_sixteen"] / (SLEEPERS * record["rate_of_one"])
    shown.add_row("16 sleeping workers, of 16 times one", f"{share:.0%}", "90 %")
    for name, bound in (("ray", "8 s"), ("local", "1 s")):
        seconds = record[f"start_{name}_s"]
        shown.add_row(
            f"call to first record, {name}; median of {len(seconds)}",
            f"{statistics.median(seconds):.1f} s",
            bound,
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search costs beside its evaluations.")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no record")
    parser.add_argument("--table", action="store_true", help="print the record")
    arguments = parser.parse_args()
    console = Console(width=100)
    if arguments.table:
        console.print(table(json.loads(RECORD.read_text())))
        return
    record = measure(20 if arguments.quick else arguments.trials, 2 if arguments.quick else 12)
    console.print(table(record))
    if not arguments.quick:
        write_atomically(RECORD, json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
