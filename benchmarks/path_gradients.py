"""Does a supernet that is trained as briefly as quickstart's learn its candidates at all?

    python benchmarks/path_gradients.py            # eight minutes on two idle cores; resumes
    python benchmarks/path_gradients.py --quick    # a smoke test; writes no record
    python benchmarks/path_gradients.py --table    # the record

The supernet of `quickstart` is trained in several ways, each as long as the preset says, from two
seeds, and reads the 40 networks that `evolute rank quickstart` has trained alone
(`docs/results/quickstart_rank.json`). Printed are the accuracy with inherited weights, how much the
cross entropies of networks without a skip differ (nothing, where candidates have not learnt), and
Kendall's tau with the accuracies of the trainings alone, with a bootstrap interval.

Under `mean` a candidate takes an m-th of its gradient, and a bottleneck starts as its shortcut
(Goyal et al. 2017, https://arxiv.org/abs/1706.02677): both slow the start of what is searched.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from torch import nn

from configs import load_config
from configs.atomic import write_atomically
from evaluators.accuracy import read_all, read_by_batch
from evaluators.calibration import recalibrate
from evaluators.fingerprint import device_name
from experiments.data.splits import load_splits
from experiments.train import prepare_training
from experiments.workspace import open_workspace
from search_space.blocks import Bottleneck

RESULTS = Path(__file__).parent.parent / "docs" / "results"
RECORD, RANKED = RESULTS / "path_gradients.json", RESULTS / "quickstart_rank.json"
SEEDS, DRAWS = (0, 1), 1000

# Settings of `train`, and the weight with which the last norm of a block starts.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "mean": ({"path_gradients": "mean", "learning_rate": 0.1}, 0.0),
    "mean, blocks start whole": ({"path_gradients": "mean", "learning_rate": 0.1}, 1.0),
    "sum": ({"path_gradients": "sum", "learning_rate": 0.1}, 0.0),
    "sum, blocks start whole": ({"path_gradients": "sum", "learning_rate": 0.1}, 1.0),
    "sum, twice the learning rate": ({"path_gradients": "sum", "learning_rate": 0.2}, 0.0),
}


def train_and_read(way: str, seed: int, networks: int) -> dict[str, Any]:
    """Train the supernet in a way, and return what it says of the networks."""
    options, start = WAYS[way]
    config = load_config("quickstart")
    recipe = dataclasses.replace(config.train, **options)
    config = dataclasses.replace(config, seed=seed, train=recipe)

    def init_weights(block: Bottleneck) -> None:
        nn.init.constant_(block.expand[1].weight, start)  # type: ignore[arg-type]

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Bottleneck, "init_weights", init_weights),
    ):
        began = time.monotonic()
        supernet = prepare_training(config, open_workspace(config, Path(folder))).run()
        seconds = time.monotonic() - began
        splits = load_splits(config, "cpu")
        readings = []
        for ranked in json.loads(RANKED.read_text())["networks"][:networks]:
            network = supernet.extract(tuple(ranked["architecture"]))
            recalibrate(network, splits.calibration)
            readings.append(read_all(read_by_batch(network, splits.validation)))
    return {
        "way": way,
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "device": device_name("cpu"),
        "seconds": round(seconds, 1),
        "accuracy": [round(reading.accuracy, 4) for reading in readings],
        "cross entropy": [round(reading.cross_entropy, 6) for reading in readings],
    }


def agreement(values: Sequence[float]) -> str:
    """Return Kendall's tau with the trainings alone, and its 95 % bootstrap interval."""
    ranked = json.loads(RANKED.read_text())["networks"][: len(values)]
    read, true = np.array(values), np.array([network["accuracy"] for network in ranked])
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(read), len(read)) for _ in range(DRAWS))
    low, high = np.nanpercentile([kendalltau(read[d], true[d])[0] for d in draws], [2.5, 97.5])
    return f"{kendalltau(read, true)[0]:.2f} ({low:.2f} to {high:.2f})"


def table(record: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(box=MARKDOWN)
    columns = (
        "seed",
        "accuracy (%)",
        "deviation without skip",
        "tau by accuracy",
        "by cross entropy",
    )
    shown.add_column("gradients of the paths")
    for column in columns:
        shown.add_column(column, justify="right")
    ranked = json.loads(RANKED.read_text())["networks"]
    for entry in record:
        entropies = entry["cross entropy"]
        whole = [e for e, n in zip(entropies, ranked) if "skip" not in n["architecture"]]
        shown.add_row(
            entry["way"],
            str(entry["seed"]),
            f"{np.mean(entry['accuracy']):.1f}",
            f"{np.std(whole):.4f}",
            agreement(entry["accuracy"]),
            agreement([-value for value in entropies]),
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="How a short supernet learns its candidates.")
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no record")
    parser.add_argument("--table", action="store_true", help="print the record")
    arguments = parser.parse_args()
    console = Console(width=120)
    if arguments.quick:
        console.print(table([train_and_read("sum", 0, 8)]))
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else []
    for seed in () if arguments.table else SEEDS:
        for way in WAYS:
            if not any((entry["way"], entry["seed"]) == (way, seed) for entry in record):
                record.append(train_and_read(way, seed, 40))
                write_atomically(RECORD, json.dumps(record))
    console.print(table(sorted(record, key=lambda entry: [*WAYS].index(entry["way"]))))


if __name__ == "__main__":
    main()
