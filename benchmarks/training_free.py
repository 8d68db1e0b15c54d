"""Whether scores of untrained networks order architectures as trainings do, on NAS-Bench-Macro.

    python benchmarks/training_free.py             # the table, from docs/results
    python benchmarks/training_free.py --compute   # what is missing: an hour on one core

Kendall's tau with the published accuracy (mean of three trainings) over the different networks,
all 3,969 or as many as were computed, and over those in the most accurate fifth; beside the scores,
what costs nothing: layers that are there, FLOPs, params. Scores are computed from 32 training
images of CIFAR-10 and kept in ``docs/results/nas_bench_macro_scores.json``; a computation that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nas_bench_macro_network import STAGES, MacroNetwork
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from torch import Tensor

from configs.atomic import write_atomically
from evaluators.training_free import IMAGES, naswot, trainability

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "docs" / "results" / "nas_bench_macro_scores.json"
SCORES: dict[str, Callable[[torch.nn.Module, Tensor], float]] = {
    "naswot": naswot,
    "trainability": trainability,
}


def different_networks() -> list[str]:
    """Return one key of all that are equal networks: identities last among equal layers."""
    stages = []
    for _, depth in STAGES:
        equal = {
            tuple(sorted(c, key="0".__eq__)) for c in itertools.product("012", repeat=depth - 1)
        }
        stages.append(sorted(first + "".join(rest) for first in "012" for rest in equal))
    return ["".join(parts) for parts in itertools.product(*stages)]


def training_images(data: Path) -> Tensor:
    """Return (IMAGES, 3, 32, 32) training images, normalised by their own mean and deviation."""
    from timm.data import create_dataset

    source = create_dataset("", root=str(data / "cifar10" / "train.tar"))
    chosen = np.random.default_rng(0).choice(len(source), IMAGES, replace=False)
    images = torch.stack([torch.from_numpy(np.array(source[int(i)][0])) for i in chosen])
    images = images.permute(0, 3, 1, 2).float()
    deviation, mean = torch.std_mean(images, (0, 2, 3), keepdim=True)
    return (images - mean) / deviation


def read_scores(path: Path = RESULTS) -> dict[str, dict[str, float]]:
    """Return, for each score, the value of every architecture that was computed."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def compute(data: Path, path: Path) -> None:
    """Compute what is missing in a file of scores; written every fifty architectures."""
    images, scores = training_images(data), read_scores(path)
    for name, score in SCORES.items():
        values = scores.setdefault(name, {})
        missing = [key for key in different_networks() if key not in values]
        np.random.default_rng(0).shuffle(missing)  # so that a part stands for all
        for done, key in enumerate(missing, 1):
            values[key] = float(f"{score(MacroNetwork(key), images):.7g}")
            if done % 50 == 0 or done == len(missing):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(scores, separators=(",", ":")))


def table(data: Path, path: Path) -> Table:
    """Return Kendall's tau of every score with the published accuracy."""
    published = json.loads((data / "nas-bench-macro_cifar10.json").read_text(encoding="utf-8"))
    keys = different_networks()
    counted: dict[str, dict[str, float]] = {
        "layers": {key: len(key) - key.count("0") for key in keys},
        "flops": {key: published[key]["flops"] for key in keys},
        "params": {key: published[key]["params"] for key in keys},
    }
    least = np.quantile([published[key]["mean_acc"] for key in keys], 0.8)
    shown = Table(box=MARKDOWN)
    for column in ("score", "networks", "tau", "tau in the best fifth"):
        shown.add_column(column, justify="left" if column == "score" else "right")
    for name, values in (read_scores(path) | counted).items():
        scores = np.array([*values.values()])
        accuracy = np.array([published[key]["mean_acc"] for key in values])
        best = accuracy >= least
        taus = kendalltau(scores, accuracy)[0], kendalltau(scores[best], accuracy[best])[0]
        shown.add_row(name, str(len(values)), *(f"{tau:.2f}" for tau in taus))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores of untrained networks, NAS-Bench-Macro.")
    parser.add_argument("--compute", action="store_true", help="compute scores that are missing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published table")
    parser.add_argument("--scores", type=Path, default=RESULTS, help="file of the scores")
    arguments = parser.parse_args()
    if arguments.compute:
        torch.set_num_threads(1)
        compute(arguments.data, arguments.scores)
    Console().print(table(arguments.data, arguments.scores))


if __name__ == "__main__":
    main()
