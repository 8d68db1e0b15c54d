"""Where the time of the pipeline goes, on the `cifar10_cpu` space.

    python benchmarks/pipeline.py --data cifar10               # half an hour on two cores
    python benchmarks/pipeline.py --data cifar10 --sections 4  # the search alone
    python benchmarks/pipeline.py --quick                      # a smoke test

1. Images per second of one supernet training step: each family alone, and a sampled path.
2. Seconds per architecture: extract, recalibrate, evaluate, latency.
3. The driver's overhead per trial, with an evaluator that does nothing, two workers and MLflow.
4. Candidates per minute with and without what a search saves: reading stops where the front is out
   of reach, architectures that begin alike share activations, latencies are measured as precisely
   as needed, and ONNX programs are put together from parts. One worker of a search, with a supernet
   that was trained for a moment. The architectures are those that `evolution` proposes: plain ones,
   random ones, then changes of the front. Each is measured in full, from which the sampler learns,
   and as a search does, in turns.

Times are medians over repeats that take turns, so that the machine's drift hits all alike; the
ratio to the convolution is beside each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from torch import nn

from configs import Config, load_config
from configs.errors import Stopped
from evaluators import (
    LatencySettings,
    measure_accuracy,
    measure_latency,
    measure_reference,
    recalibrate,
)
from evaluators.runtime import Program, register_runtime
from evaluators.runtimes.onnxruntime import open_program, to_onnx
from experiments.classification import supernet_trainer
from experiments.evaluator import SupernetEvaluator
from experiments.settings import goal_of
from experiments.tracking.tracker import Tracker
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_workspace
from search import Goal, SearchProgress, TrialRecord, run_search
from search.problem import Problem
from search.proposals import Proposer
from search.space_profile import uniform_architectures
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


@register_runtime("onnxruntime_whole", version=lambda: "benchmark", synchronous=True)
def exported_whole(model: nn.Module, example: torch.Tensor, settings: LatencySettings) -> Program:
    """Export a network in one piece: one that is wrapped has no parts."""
    program = to_onnx(nn.Sequential(model), example, any_batch=False)
    return open_program(program.SerializeToString(), example, settings)


@dataclass(frozen=True)
class Visit:
    """An architecture, measured in full (`record`) and as a search does."""

    record: TrialRecord
    searched: dict[str, float]
    stopped: bool
    seconds: tuple[float, float]  # in full, as a search does
    cpu: tuple[float, float]  # seconds of the processor: less noisy on a busy machine
    again_ms: float  # the latency in full once more: how far a ranking agrees with itself


def timed(call: Callable[[], dict[str, float]]) -> tuple[dict[str, float], bool, float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    try:
        metrics, stopped = call(), False
    except Stopped as stop:
        metrics, stopped = stop.metrics, True
    return metrics, stopped, time.perf_counter() - start, time.process_time() - cpu


def visits(config: Config, workspace: Workspace, trials: int) -> Iterator[Visit]:
    """Yield what the architectures that a search proposes give both ways."""
    plain = replace(
        config,
        evaluate=replace(config.evaluate, cache_mb=0),
        latency=replace(config.latency, runtime="onnxruntime_whole", precision=0.0),
    )
    repeat = replace(config, latency=replace(config.latency, precision=0.0))
    unit = measure_reference(config.latency)
    in_full, searching, once_more = (
        SupernetEvaluator(c, workspace, reference_ms=unit) for c in (plain, config, repeat)
    )
    space, goal = in_full.supernet.space, goal_of(config)
    start = uniform_architectures(space)[: trials // 4]
    problem = Problem(space, goal, trials, seed=config.seed)
    proposer = Proposer(problem, sampler="evolution", queue=start)
    records: list[TrialRecord] = []
    while len(records) < trials:
        architecture = proposer.propose()
        assert architecture is not None
        raced = len(records) >= len(start)
        front = {r.number: r.metrics for r in goal.front(records)} if raced else {}
        ways = [partial(in_full, architecture), partial(searching, architecture, front)]
        order = (0, 1) if len(records) % 2 else (1, 0)
        outcomes = {way: timed(ways[way]) for way in order}
        full, _, *slow = outcomes[0]
        searched, stopped, *fast = outcomes[1]
        record = TrialRecord(len(records), architecture, full, "complete")
        proposer.learn(record)
        records.append(record)
        again = once_more.profile(architecture)["latency_ms"]
        yield Visit(record, searched, stopped, *zip(slow, fast), again)


def search_evaluation(config: Config, trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = open_workspace(config, Path(folder) / "run")
        train_supernet(config, workspace)
        show(list(visits(config, workspace, trials)), goal_of(config))


def show(seen: list[Visit], goal: Goal) -> None:
    table = Table(title=f"4. {len(seen)} architectures of a search", title_justify="left")
    for column in ("", "in full", "as a search does", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    slow, fast = (np.array(seconds) for seconds in zip(*(visit.seconds for visit in seen)))
    low, high = np.percentile(
        [
            slow[chosen].sum() / fast[chosen].sum()
            for chosen in np.random.default_rng(0).integers(len(seen), size=(1000, len(seen)))
        ],
        [2.5, 97.5],
    )
    ratio = slow.sum() / fast.sum()
    per_minute = [f"{60 * len(seen) / seconds.sum():.1f}" for seconds in (slow, fast)]
    table.add_row("per minute", *per_minute, f"{ratio:.2f} ({low:.2f} to {high:.2f})")
    medians = statistics.median(slow), statistics.median(fast)
    texts = [f"{m:.2f} {spread(list(s))}" for m, s in zip(medians, (slow, fast))]
    table.add_row("seconds, median", *texts, f"{medians[0] / medians[1]:.2f}")
    used = [sum(seconds) / len(seen) for seconds in zip(*(visit.cpu for visit in seen))]
    table.add_row("processor, mean", f"{used[0]:.2f}", f"{used[1]:.2f}", f"{used[0] / used[1]:.2f}")
    half = len(seen) // 2
    later = slow[half:].sum() / fast[half:].sum()
    table.add_row("second half: seconds", f"{slow[half:].mean():.2f}", f"{fast[half:].mean():.2f}",
                  f"{later:.2f}")  # fmt: skip
    console.print(table)

    full = [visit.record.metrics for visit in seen]
    finished = [visit for visit in seen if not visit.stopped]
    images = [visit.searched["accuracy_images"] / visit.record.metrics["accuracy_images"]
              for visit in seen]  # fmt: skip
    accuracies = [
        (visit.record.metrics["accuracy"], visit.searched["accuracy"]) for visit in finished
    ]
    latencies = [metrics["latency_ms"] for metrics in full]
    searched = [visit.searched["latency_ms"] for visit in seen]
    again = [visit.again_ms for visit in seen]
    front = {record.number for record in goal.front([visit.record for visit in seen])}
    lost = [visit.record.number for visit in seen
            if visit.stopped and visit.record.number in front]  # fmt: skip
    console.print(
        f"Stopped: {len(seen) - len(finished)} of {len(seen)}; images read: "
        f"{statistics.mean(images):.0%}.\n"
        f"Accuracy: {sum(a == b for a, b in accuracies)} of {len(accuracies)} that were read to "
        f"the end are equal, tau {kendalltau(*zip(*accuracies)).statistic:.3f}.\n"
        f"Latency: tau {kendalltau(latencies, searched).statistic:.3f}; measured in full a second "
        f"time {kendalltau(latencies, again).statistic:.3f}.\n"
        f"Of {len(front)} on the front of what was measured in full, stopped: {len(lost)} {lost}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, as a smoke test")
    parser.add_argument("--data", help="the folder of CIFAR-10's images, for section 4")
    parser.add_argument("--sections", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=60, help="architectures of section 4")
    arguments = parser.parse_args()
    quick, sections = arguments.quick, arguments.sections
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
    if 1 in sections:
        training_steps(space, config, batches(1, 16 if quick else 64)[0], 1 if quick else 7)
    if 2 in sections:
        architecture_evaluation(
            space, config, batches(1 if quick else 4, 256), batches(1 if quick else 5, 256),
            2 if quick else 12,
        )  # fmt: skip
    if 3 in sections:
        driver_overhead(space, 30 if quick else 300)
    if 4 in sections and quick:
        options = ["train.epochs=1", "latency.runtime=onnxruntime", "evaluate.batch_size=32"]
        search_evaluation(load_config("quickstart", [*options, "latency.max_spread=10"]), 6)
    elif 4 in sections and arguments.data:
        options = [f"data.root={arguments.data}", "train.epochs=3", "latency.max_spread=1"]
        search_evaluation(load_config("cifar10_cpu", options), arguments.trials)


if __name__ == "__main__":
    main()
