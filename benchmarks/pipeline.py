"""Where the time of the pipeline goes, on the `cifar10_cpu` space.

    python benchmarks/pipeline.py            # about five minutes on two cores
    python benchmarks/pipeline.py --quick    # a smoke test

1. Images per second of one supernet training step: each family alone, and a sampled path.
2. Seconds per architecture: extract, recalibrate, evaluate, latency.
3. The driver's overhead per trial, with an evaluator that does nothing, two workers and MLflow.

Times are medians over repeats that take turns, so that the machine's drift hits all alike; the
ratio to the convolution is beside each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from configs import load_config
from evaluators import measure_accuracy, measure_latency, recalibrate
from experiments.classification import supernet_trainer
from experiments.tracking.tracker import Tracker
from search import SearchProgress, TrialRecord, run_search
from search.study import parameters_of
from search_space import Architecture, ChoiceSpace, SearchSpace
from supernet import Supernet

console = Console(width=100)
Batch = tuple[torch.Tensor, torch.Tensor]


def take_turns(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each action, one repeat of every action at a time."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def spread(values: list[float]) -> str:
    low, high = np.percentile(values, [25, 75])
    return f"± {(high - low) / statistics.median(values) / 2:.0%}"


def uniform(space: SearchSpace, candidate: str) -> Architecture:
    return tuple(candidate if candidate in layer.candidates else "conv3" for layer in space.layers)


def training_steps(space: SearchSpace, config, batch: Batch, repeats: int) -> None:
    torch.manual_seed(0)
    trainer = supernet_trainer(Supernet(space), config.train, 100, seed=0)
    supernet, optimizer = trainer.model, trainer.optimizer
    loss = torch.nn.CrossEntropyLoss()

    def step(architecture: Architecture) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(supernet(batch[0], architecture), batch[1]).backward()
        optimizer.step()

    rng = np.random.default_rng(0)
    names = [name for name in space.config.candidates if name != "skip"]
    actions: dict[str, Callable[[], object]] = {
        f"{name} in every layer": partial(step, uniform(space, name)) for name in names
    }
    actions["a sampled path"] = lambda: step(space.sample(rng))
    actions["a fair step (per path)"] = lambda: trainer.train_step(*batch)
    times = take_turns(actions, repeats)
    paths = max(len(layer.candidates) for layer in space.layers)
    times["a fair step (per path)"] = [t / paths for t in times["a fair step (per path)"]]
    base = statistics.median(times["conv3 in every layer"])
    table = Table(title=f"1. One training step, batch {len(batch[1])}", title_justify="left")
    for column in ("path", "images/s", "spread", "time / conv3"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for name, values in times.items():
        median = statistics.median(values)
        speed = f"{len(batch[1]) / median:,.0f}"
        table.add_row(name, speed, spread(values), f"{median / base:.2f}x")
    console.print(table)


def architecture_evaluation(
    space: SearchSpace, config, calibration: list[Batch], validation: list[Batch], repeats: int
) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    rng = np.random.default_rng(1)
    names = ("extract", "recalibrate", "evaluate", "latency")
    parts: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        architecture = space.sample(rng)
        marks = [time.perf_counter()]
        network = supernet.extract(architecture)
        marks.append(time.perf_counter())
        recalibrate(network, calibration)
        marks.append(time.perf_counter())
        measure_accuracy(network, validation)
        marks.append(time.perf_counter())
        measure_latency(network, (3, 32, 32), replace(config.latency, max_spread=10.0))
        marks.append(time.perf_counter())
        for name, start, end in zip(parts, marks, marks[1:]):
            parts[name].append(end - start)
    total = sum(statistics.median(values) for values in parts.values())
    images = sum(len(labels) for _, labels in calibration), sum(len(y) for _, y in validation)
    table = Table(
        title=f"2. One architecture: {images[0]} images recalibrate, {images[1]} evaluate",
        title_justify="left",
    )
    for column in ("part", "seconds", "spread", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, values in parts.items():
        median = statistics.median(values)
        table.add_row(name, f"{median:.3f}", spread(values), f"{median / total:.0%}")
    table.add_row("all", f"{total:.3f}", "", "100%")
    console.print(table)


def nothing(architecture: Architecture) -> dict[str, float]:
    """Evaluate at no cost: two numbers drawn from the architecture's name."""
    rng = np.random.default_rng(zlib.crc32("/".join(architecture).encode()))
    return {"accuracy": float(rng.random()), "latency_ms": float(rng.random())}


def driver_overhead(space: SearchSpace, trials: int) -> None:
    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with Tracker(
            directory, uri=None, experiment="benchmark", run_name="overhead", tags={}, params={}
        ) as tracker:

            def on_trial(record: TrialRecord, progress: SearchProgress) -> None:
                choices = parameters_of(record.architecture)
                with tracker.child(f"trial-{record.number}", "trial", params=choices) as child:
                    child.metrics(record.metrics)
                tracker.metrics({"front_size": progress.front_size}, step=progress.done)
                ended.append(time.perf_counter())

            run_search(
                ChoiceSpace([layer.candidates for layer in space.layers]),
                nothing,
                {"accuracy": "maximize", "latency_ms": "minimize"},
                trials=trials,
                workers=2,
                storage=directory / "study.db",
                on_trial=on_trial,
                progress=False,
            )
            searched = time.perf_counter()
        uploaded = time.perf_counter()
    gaps = 1000 * np.diff(ended)
    table = Table(title=f"3. Driver, {trials} trials, 2 workers, MLflow on", title_justify="left")
    for column in ("ms per trial", "median", "90th percentile", "bar"):
        table.add_column(column, justify="left" if column == "ms per trial" else "right")
    table.add_row(
        "between two results", f"{np.median(gaps):.1f}", f"{np.percentile(gaps, 90):.1f}", "50"
    )
    console.print(table)
    console.print(f"After the last trial MLflow had {uploaded - searched:.1f} s left to write.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, as a smoke test")
    quick = parser.parse_args().quick
    config = load_config("cifar10_cpu")
    space = SearchSpace(config.space)
    generator = torch.Generator().manual_seed(0)

    def batches(count: int, size: int) -> list[Batch]:
        return [
            (
                torch.randn(size, 3, 32, 32, generator=generator).contiguous(
                    memory_format=torch.channels_last
                ),
                torch.randint(10, (size,), generator=generator),
            )
            for _ in range(count)
        ]

    console.print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{len(space.layers)} layers, {space.size:,} architectures"
    )
    training_steps(space, config, batches(1, 16 if quick else 64)[0], 1 if quick else 7)
    architecture_evaluation(
        space, config, batches(1 if quick else 4, 256), batches(1 if quick else 5, 256),
        2 if quick else 12,
    )  # fmt: skip
    driver_overhead(space, 30 if quick else 300)


if __name__ == "__main__":
    main()
