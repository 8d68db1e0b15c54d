"""Is the order in which a verification leaves its networks that of trainings from scratch?

    python benchmarks/verified_order.py                       # half an hour; resumes
    python benchmarks/verified_order.py --of cifar10_cpu --seeds 6
    python benchmarks/verified_order.py --quick               # a smoke test
    python benchmarks/verified_order.py --table               # the record as Markdown

The networks on the front of a search are read from its record (`docs/results/NAME.json`, written by
`evolute report`) and trained again: from scratch, by the preset's `retrain` recipe with as many
epochs as the record's page says, from several seeds, tested on all test images. Kendall's tau
compares the accuracies that the search promised with the means over the seeds. Its interval draws
the seeds of each network anew, so it says how much of the answer is the noise of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from configs import load_config
from configs.atomic import write_atomically
from experiments.blueprints import InSpace
from experiments.retraining import SeedTrainings, new_task, prepare_setup
from experiments.stand_alone import train_all
from experiments.workspace import open_workspace

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results"
RECORD = RESULTS / "verified_order.json"
DATA = HERE.parent.parent / "shared" / "data"
DRAWS = 1000

Entry = dict[str, Any]


def front_of(name: str) -> list[Entry]:
    """Return the networks on the front of a search that is on record, the most accurate first."""
    front: list[Entry] = json.loads((RESULTS / f"{name}.json").read_text())["front"]
    return sorted(front, key=lambda entry: -entry["accuracy"])


def train(name: str, data: Path, work: Path, record: list[Entry], size: Mapping[str, Any]) -> None:
    """Train the front of a search; each seed is on record as soon as it is done.

    Args:
        size: Epochs, seeds and images; what is on record of the same size is not trained again.
    """
    config = load_config("cifar10_cpu")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=str(data / "cifar10"), limit=size["images"]),
        retrain=dataclasses.replace(config.retrain, epochs=size["epochs"], seeds=size["seeds"]),
        search=dataclasses.replace(config.search, workers=size["workers"]),
    )
    setup = prepare_setup(config, open_workspace(config, work))
    promised = {tuple(entry["architecture"].split()): entry["accuracy"] for entry in front_of(name)}
    tasks = {
        new_task(setup, f"network-{place}", InSpace(setup.space, architecture)): architecture
        for place, architecture in enumerate(promised)
    }
    architectures = {task.folder.name: architecture for task, architecture in tasks.items()}

    def done(key: tuple[str, ...], metrics: Mapping[str, float]) -> None:
        architecture = architectures[key[0]]
        entry = {
            "search": name,
            "architecture": " ".join(architecture),
            "epochs": size["epochs"],
            "images": size["images"],
            "seed": int(key[1]),
            "promised": promised[architecture],
            "accuracy": round(metrics["accuracy"], 4),
        }
        if entry not in record:
            record.append(entry)
            print(entry, flush=True)
            if not size["quick"]:
                write_atomically(RECORD, json.dumps(record, indent=1))

    keys = [(task.folder.name, str(seed)) for seed in setup.seeds for task in tasks]
    train_all(SeedTrainings(setup, [*tasks]), keys, done)


def by_network(entries: Sequence[Entry]) -> dict[str, tuple[float, list[float]]]:
    """Return, for each architecture, what was promised and what each seed reached."""
    found: dict[str, tuple[float, list[float]]] = {}
    for entry in entries:
        found.setdefault(entry["architecture"], (entry["promised"], []))[1].append(
            entry["accuracy"]
        )
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def agreement(networks: Mapping[str, tuple[float, list[float]]]) -> tuple[float, float, float]:
    """Return Kendall's tau of promised and reached accuracies, and its 95 % interval."""
    promised = [promise for promise, _ in networks.values()]
    reached = [np.array(seeds) for _, seeds in networks.values()]
    rng = np.random.default_rng(0)
    taus = [
        kendalltau(promised, [rng.choice(seeds, len(seeds)).mean() for seeds in reached]).statistic
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(taus, [2.5, 97.5])
    tau = kendalltau(promised, [seeds.mean() for seeds in reached]).statistic
    return float(tau), float(low), float(high)


def show(record: Sequence[Entry], console: Console) -> None:
    """Print a table for each search and number of epochs."""
    for search, epochs in sorted({(entry["search"], entry["epochs"]) for entry in record}):
        chosen = [e for e in record if (e["search"], e["epochs"]) == (search, epochs)]
        networks = by_network(chosen)
        table = Table(box=MARKDOWN, title=f"{search}, {epochs} epochs")
        table.add_column("network")
        for column in ("promised (%)", "retrained (%)", "seeds"):
            table.add_column(column, justify="right")
        for architecture, (promised, seeds) in networks.items():
            deviation = np.std(seeds, ddof=1) if len(seeds) > 1 else float("nan")
            table.add_row(
                architecture,
                f"{promised:.1f}",
                f"{np.mean(seeds):.1f} ± {deviation:.1f}",
                str(len(seeds)),
            )
        console.print(table)
        tau, low, high = agreement(networks)
        console.print(f"Kendall's tau {tau:.2f} ({low:.2f} to {high:.2f})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Verified against retrained order.")
    parser.add_argument("--of", default="cifar10_cpu_params", help="the record of a search")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that has cifar10")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/verified_order"))
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no record")
    parser.add_argument("--table", action="store_true", help="print the record")
    arguments = parser.parse_args()
    console = Console(width=120)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else []
    size = {"epochs": arguments.epochs, "seeds": arguments.seeds, "images": 30_000}
    if arguments.quick:
        record = []
        with tempfile.TemporaryDirectory() as work:
            small = {"epochs": 1, "seeds": 2, "images": 900, "workers": 0, "quick": True}
            train(arguments.of, arguments.data, Path(work), record, small)
    elif not arguments.table:
        big = {**size, "workers": 2, "quick": False}
        train(arguments.of, arguments.data, arguments.work, record, big)
    show(record, console)


if __name__ == "__main__":
    main()
