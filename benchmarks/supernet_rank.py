"""Which training of a supernet ranks architectures as trainings on their own do?

    python benchmarks/supernet_rank.py --data ../shared/data              # hours; resumes
    python benchmarks/supernet_rank.py --data ../shared/data --variants fair sandwich
    python benchmarks/supernet_rank.py --data ../shared/data --rungs      # see below
    python benchmarks/supernet_rank.py --quick                            # a smoke test
    python benchmarks/supernet_rank.py --table                            # the record as Markdown

The space of NAS-Bench-Macro (`nas_bench_macro.yaml`) is trained on CIFAR-10 in several ways, each
with the same number of images through paths, forward and backward. Each supernet then reads the
accuracies of `NETWORKS` architectures on images that it has not seen, and these are compared with
the published ones, the mean of three trainings on their own (test images): Kendall's tau with a
bootstrap interval over the architectures. In a second column the readings are not taken as they
are: a surrogate learns from them, from what is counted and scored of the architectures, and from
the published accuracies of 20 of them, and is judged on the others (`search/fidelities.py`).

Beside them what costs nothing: layers, FLOPs, NASWOT.

`--rungs` asks what the first rung of a verification tells: some of these architectures are trained
alone for a moment, from fresh weights and from those inherited from the first variant's supernet,
the latter also with a smaller learning rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fidelities import WITH_SCORE, Truth, free_features
from nas_bench_macro import NasBenchMacro, load_table
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from configs import Config, load_config
from configs.atomic import write_atomically
from configs.schema import Retrain
from evaluators.accuracy import Reading, read_all, read_by_batch
from evaluators.calibration import recalibrate
from experiments.data.splits import load_splits
from experiments.stand_alone import Start, train_alone
from experiments.train import new_supernet, prepare_training
from experiments.workspace import Workspace, open_workspace
from search.fidelities import Fidelities, Readings
from search.surrogate import Surrogate
from search_space import Architecture, build_network
from supernet import Supernet, seed_everything
from supernet.checkpoint import load_checkpoint

HERE = Path(__file__).parent
RECORD = HERE.parent / "docs" / "results" / "supernet_rank.json"
DATA = HERE.parent.parent / "shared" / "data"
NETWORKS, VERIFIED, DRAWS = 200, 20, 1000
RUNG_NETWORKS = 24
VALIDATION = 1000  # images from which accuracies are read
IMAGES, PIXELS, PASSES = 18_000, 16, 216_000
PATHS = {"uniform": 1, "fair": 3, "sandwich": 4}  # a step

RUNG_IMAGES = 4_500  # of one epoch
RUNGS: dict[str, tuple[Start, float]] = {  # weights, part of the learning rate
    "alone, from fresh weights": ("fresh", 1),
    "alone, from inherited weights": ("inherited", 1),
    "alone, from inherited weights, a fifth of the learning rate": ("inherited", 0.2),
}

Values = dict[str, dict[str, float]]

EMA = 0.995  # averaged weights are read besides those of the last step
VARIANTS: dict[str, dict[str, Any]] = {
    "fair, mean of losses": {"sampling": "fair", "path_gradients": "mean", "ema_decay": EMA},
    "fair, sum of losses": {"sampling": "fair", "path_gradients": "sum"},
    "uniform": {"sampling": "uniform"},
    "sandwich": {"sampling": "sandwich", "path_gradients": "mean", "ema_decay": EMA},
    "sandwich, distilled": {
        "sampling": "sandwich",
        "path_gradients": "mean",
        "distill": True,
        "ema_decay": EMA,
    },
}
CALIBRATED_TOO = ("sandwich, distilled",)  # is read after several recalibrations
CALIBRATED = (128, 2048)  # images


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a variant is trained and how many architectures are read."""

    images: int  # of training
    pixels: int
    passes: int  # images through paths
    networks: int = NETWORKS


def configured(options: Mapping[str, object], data: Path, size: Size) -> Config:
    """Return the configuration of a variant: as many epochs as its paths leave of the passes."""
    config = load_config(HERE / "nas_bench_macro.yaml")
    paths = PATHS[str(options["sampling"])]
    epochs = max(round(size.passes / (size.images * paths)), 1)
    every = size.images + VALIDATION
    images = dataclasses.replace(
        config.data,
        root=str(data / "cifar10"),
        limit=every,
        validation_fraction=VALIDATION / every,
    )
    return dataclasses.replace(
        config,
        space=dataclasses.replace(config.space, input_size=size.pixels),
        data=images,
        train=dataclasses.replace(config.train, epochs=epochs, **options),
    )


def ranked(networks: int) -> list[Architecture]:
    """Return different architectures of the space, drawn uniformly; always the same."""
    table = [*load_table()]
    order = np.random.default_rng(0).permutation(len(table))
    return [table[index] for index in order[:networks]]


def read(supernet: Supernet, config: Config, networks: int, calibration: int) -> Values:
    """Return the accuracy and minus the cross entropy of each architecture."""
    evaluate = dataclasses.replace(config.evaluate, calibration_images=calibration)
    splits = load_splits(dataclasses.replace(config, evaluate=evaluate), "cpu")
    found: Values = {"accuracy": {}, "cross entropy": {}}
    for architecture in ranked(networks):
        network = supernet.extract(architecture)
        recalibrate(network, splits.calibration)
        note(found, architecture, read_all(read_by_batch(network, splits.validation)))
    return found


def train_and_read(name: str, data: Path, size: Size, work: Path) -> list[dict[str, Any]]:
    """Train a variant, and return what each way of reading it says."""
    config = configured(VARIANTS[name], data, size)
    workspace = workspace_of(name, size, config, work)
    started = time.monotonic()
    shipped = prepare_training(config, workspace).run()
    minutes = round((time.monotonic() - started) / 60, 1)
    usual = config.evaluate.calibration_images
    weights = {"": shipped}
    if config.train.ema_decay:
        last = new_supernet(config)
        last.load_state_dict(load_checkpoint(workspace.checkpoint)["model"])
        weights = {"": last.eval(), "averaged weights": shipped}
    found = []
    for reading, supernet in weights.items():
        others = CALIBRATED if reading and name in CALIBRATED_TOO else ()
        for calibration in (usual, *others):
            found.append(
                {
                    "variant": name,
                    **dataclasses.asdict(size),
                    "epochs": config.train.epochs,
                    "batch": config.train.batch_size,
                    "minutes": minutes,
                    "threads": torch.get_num_threads(),
                    "reading": reading,
                    "calibration": calibration,
                    **read(supernet, config, size.networks, calibration),
                }
            )
    return found


def train_rung(name: str, data: Path, size: Size, work: Path) -> dict[str, Any]:
    """Train the first `RUNG_NETWORKS` architectures alone for one epoch, and read them."""
    start, rate = RUNGS[name]
    variant = next(iter(VARIANTS))
    config = configured(VARIANTS[variant], data, size)
    recipe = Retrain(
        epochs=1,
        batch_size=config.train.batch_size,
        learning_rate=config.train.learning_rate * rate,
        weight_decay=config.train.weight_decay,
    )
    config = dataclasses.replace(config, retrain=recipe)
    supernet = prepare_training(config, workspace_of(variant, size, config, work)).run()
    splits = load_splits(config, "cpu")
    train = dataclasses.replace(splits.train, indices=splits.train.indices[:RUNG_IMAGES])
    values: Values = {"accuracy": {}, "cross entropy": {}}
    began = time.monotonic()
    for architecture in ranked(RUNG_NETWORKS):
        seed_everything(0, 0)
        if start == "fresh":
            network = build_network(supernet.space, architecture)
        else:
            network = supernet.extract(architecture)
        with tempfile.TemporaryDirectory() as folder:
            shipped = train_alone(network, config, train, 0, Path(folder))
        note(values, architecture, read_all(read_by_batch(shipped, splits.validation)))
    return {
        "variant": name,
        **dataclasses.asdict(size),
        "images": RUNG_IMAGES,
        "epochs": 1,
        "batch": recipe.batch_size,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "threads": torch.get_num_threads(),
        "reading": "",
        "calibration": 0,
        **values,
    }


def workspace_of(name: str, size: Size, config: Config, work: Path) -> Workspace:
    """Return the work directory of a variant."""
    folder = "-".join([*re.findall(r"\w+", name), *map(str, dataclasses.astuple(size))])
    return open_workspace(config, work / folder)


def note(values: Values, architecture: Architecture, reading: Reading) -> None:
    """Write down what was read of an architecture: the higher, the better."""
    key = "".join(architecture)
    values["accuracy"][key] = round(reading.accuracy, 4)
    values["cross entropy"][key] = round(-reading.cross_entropy, 6)


def judge(values: Mapping[str, float]) -> tuple[float, tuple[float, float]]:
    """Return Kendall's tau with the published accuracies, and its 95 % bootstrap interval."""
    table = load_table()
    read = np.array([*values.values()])
    true = np.array([table[tuple(key)]["accuracy"] for key in values])
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(read), len(read)) for _ in range(DRAWS)]
    taus = [kendalltau(read[draw], true[draw])[0] for draw in draws]
    low, high = np.percentile(taus, [2.5, 97.5])
    return kendalltau(read, true)[0], (low, high)


def combined(values: Mapping[str, float], data: Path) -> float:
    """Return tau of a prediction from all readings, features and `VERIFIED` published accuracies.

    Verified are, of each tenth of the architectures by FLOPs, the one that a surrogate of the
    readings finds best, and a random one. Tau is that of the others.
    """
    truth = Truth(data / "nas-bench-macro_cifar10.json")
    features, space = free_features(truth)[WITH_SCORE], NasBenchMacro()
    keys = [tuple(key) for key in values]
    place = {architecture: index for index, architecture in enumerate(truth.architectures)}
    indices = np.array([place[key] for key in keys])
    readings = Readings(keys, [*values.values()])
    believed = Surrogate(space, features=features).fit(*readings[:2]).predict(keys)[0]
    rng, verified = np.random.default_rng(0), []
    for group in np.array_split(np.argsort(truth.flops[indices]), VERIFIED // 2):
        best = group[np.argmax(believed[group])]
        verified += [best, rng.choice(group[group != best])]
    checked = truth.readings(indices[verified], truth.values)
    model = Fidelities(space, features=features).fit(readings, checked)
    others = np.setdiff1d(np.arange(len(keys)), verified)
    predicted, _ = model.predict([keys[index] for index in others])
    return float(kendalltau(predicted, truth.accuracy[indices[others]])[0])


def free(networks: int) -> dict[str, dict[str, float]]:
    """Return what ranks the same architectures without a supernet."""
    table = load_table()
    scores = json.loads((HERE.parent / "docs/results/nas_bench_macro_scores.json").read_text())
    keys = ["".join(architecture) for architecture in ranked(networks)]
    return {
        "number of layers": {key: float(len(key) - key.count("0")) for key in keys},
        "FLOPs": {key: table[tuple(key)]["flops"] for key in keys},
        "NASWOT": {key: scores["naswot"][key] for key in keys},
    }


def table(record: Sequence[Mapping[str, Any]], data: Path) -> Table:
    shown = Table(box=MARKDOWN)
    columns = ("trained", "read", "calibration", "images x epochs", "pixels", "minutes", "accuracy")
    taus = ("tau of accuracy", "tau of cross entropy", "with 20 published")
    for column in (*columns, *taus):
        shown.add_column(column, justify="left" if column in columns[:2] else "right")
    count = max((len(entry["accuracy"]) for entry in record), default=NETWORKS)
    for name, values in free(count).items():
        shown.add_row(name, *[""] * 6, _interval(values))
    for entry in record:
        shown.add_row(
            entry["variant"],
            entry["reading"],
            str(entry["calibration"]),
            f"{entry['images']:,} x {entry['epochs']}",
            str(entry["pixels"]),
            f"{entry['minutes']:.0f}",
            f"{np.mean([*entry['accuracy'].values()]):.1f} %",
            _interval(entry["accuracy"]),
            _interval(entry["cross entropy"]),
            f"{combined(entry['cross entropy'], data):.2f}",
        )
    return shown


def _interval(values: Mapping[str, float]) -> str:
    tau, (low, high) = judge(values)
    return f"{tau:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="How trainings of a supernet rank architectures.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-10 and the table")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--images", type=int, default=IMAGES, help="of training")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="height and width of images")
    parser.add_argument("--passes", type=int, default=PASSES, help="images through paths")
    parser.add_argument("--networks", type=int, default=NETWORKS, help="architectures to read")
    parser.add_argument("--work", type=Path, default=Path("runs/supernet_rank"))
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes no record")
    parser.add_argument("--rungs", action="store_true", help="short trainings alone")
    parser.add_argument("--table", action="store_true", help="print the record")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else []
    if arguments.table:
        Console(width=120).print(table(record, arguments.data))
        return
    size = Size(arguments.images, arguments.pixels, arguments.passes, arguments.networks)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as work:
            size = Size(900, 8, 3600, 24)
            found = train_and_read("sandwich, distilled", arguments.data, size, Path(work))
        Console(width=120).print(table(found, arguments.data))
        return
    if arguments.rungs:
        for name in RUNGS:
            if not any(entry["variant"] == name for entry in record):
                record.append(train_rung(name, arguments.data, size, arguments.work))
                write_atomically(RECORD, json.dumps(record))
        return
    for name in arguments.variants:
        wanted = {"variant": name, **dataclasses.asdict(size)}.items()
        if not any(wanted <= entry.items() for entry in record):
            record += train_and_read(name, arguments.data, size, arguments.work)
            write_atomically(RECORD, json.dumps(record))


if __name__ == "__main__":
    main()
