"""What 200 inherited readings and 20 verified ones tell together, on NAS-Bench-Macro.

    python benchmarks/search_efficiency.py --fidelities    # about three minutes on one core

200 architectures, drawn uniformly, have an inherited reading: minus the log of the true error,
plus a bias that depends on the architecture (a random sum over single choices and pairs of
neighbours, another one for each seed) and white noise of the same variance, both so large that
Kendall's tau of the readings with the truth is 0.6 over all networks.

20 of them are verified, their published accuracy known: the 200 in ten groups by FLOPs, and of each
group the best by a surrogate of the readings, and one at random, without which nothing would tell
what a bad reading means.

Judged over all 3,969 networks: Kendall's tau of the prediction with the published accuracy, and the
regret of the pick at equal FLOPs, which is the points that the best predicted network of a tenth of
all, by FLOPs, lies under the best there is; the mean and the largest of ten. Calibration is the
share of true values within 1.96 predicted deviations.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nas_bench_macro import IDENTITY, NasBenchMacro, load_table
from rich.box import MARKDOWN
from rich.table import Table
from scipy.stats import kendalltau

from search.fidelities import Fidelities, Readings
from search.layer_sums import LayerSums
from search.problem import Features
from search.scales import scale_of
from search.surrogate import Surrogate

SCORES = Path(__file__).parents[1] / "docs" / "results" / "nas_bench_macro_scores.json"
SEEDS, INHERITED, VERIFIED, GROUPS = 10, 200, 20, 10
WITH_SCORE = "the same and NASWOT"
TAU = 0.6  # of the inherited readings with the truth
SCORED = 40  # architectures whose training-free score is computed; the others' is predicted


class Truth:
    """All networks with their published values, in one order."""

    def __init__(self, data: Path) -> None:
        table = load_table(data)
        self.table, self.architectures = table, [*table]
        self.accuracy = np.array([each["accuracy"] for each in table.values()])
        self.values = scale_of("accuracy", self.accuracy).of(self.accuracy)
        self.flops = np.array([each["flops"] for each in table.values()])
        self.groups = np.array_split(np.argsort(self.flops, kind="stable"), GROUPS)

    def readings(self, indices: np.ndarray, values: np.ndarray) -> Readings:
        return Readings([self.architectures[i] for i in indices], list(values[indices]))

    def judge(self, predicted: np.ndarray) -> tuple[float, float, float]:
        """Return tau with the truth, and mean and largest regret of the picks at equal FLOPs."""
        picks = [group[np.argmax(predicted[group])] for group in self.groups]
        best = np.array([self.accuracy[group].max() for group in self.groups])
        regrets = best - self.accuracy[picks]
        return kendalltau(predicted, self.accuracy)[0], regrets.mean(), regrets.max()


def inherited_values(truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """Return what a supernet might say of every network; see the module's docstring."""
    choices = np.array([[int(name) for name in a] for a in truth.architectures])
    layers = choices.shape[1]
    single, pairs = rng.normal(size=(layers, 3)), rng.normal(size=(layers - 1, 3, 3))
    bias = single[np.arange(layers), choices].sum(axis=1)
    bias += pairs[np.arange(layers - 1), choices[:, :-1], choices[:, 1:]].sum(axis=1)
    noise = rng.normal(size=len(choices))
    wrong = (_standardised(bias) + noise) / np.sqrt(2)
    low, high = 0.0, 10.0
    for _ in range(30):
        middle = (low + high) / 2
        values = _standardised(truth.values) + middle * wrong
        low, high = (middle, high) if kendalltau(values, truth.accuracy)[0] > TAU else (low, middle)
    return values


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def free_features(truth: Truth, scores: Path = SCORES) -> dict[str, Features | None]:
    """Return what costs nothing: no features, what is counted, and a predicted score too."""
    counted = {
        architecture: (
            float(len(architecture) - architecture.count(IDENTITY)),
            float(np.log(values["params"])),
            float(np.log(values["flops"])),
        )
        for architecture, values in truth.table.items()
    }
    naswot = {tuple(k): v for k, v in json.loads(scores.read_text())["naswot"].items()}
    order = np.random.default_rng(0).permutation(len(truth.architectures))
    scored = [a for a in map(truth.architectures.__getitem__, order) if a in naswot][:SCORED]
    model = LayerSums(NasBenchMacro()).fit(scored, [naswot[a] for a in scored])
    predicted, _ = model.predict(truth.architectures)
    with_score = {a: (*counted[a], float(p)) for a, p in zip(truth.architectures, predicted)}
    return {
        "none": None,
        "layers, params, FLOPs": counted.__getitem__,
        WITH_SCORE: with_score.__getitem__,
    }


def search_and_verify(
    truth: Truth, values: np.ndarray, features: Features | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of those that are read, and of those of them that are verified."""
    read = rng.choice(len(values), INHERITED, replace=False)
    model = Surrogate(NasBenchMacro(), features=features).fit(*truth.readings(read, values)[:2])
    believed = model.predict(truth.architectures)[0]
    verified: list[int] = []
    for group in np.array_split(read[np.argsort(truth.flops[read])], VERIFIED // 2):
        best = group[np.argmax(believed[group])]
        verified += [best, rng.choice(group[group != best])]
    return read, np.array(verified)


def table(data: Path, scores: Path = SCORES) -> Table:
    """Return means and standard deviations over the seeds, with and without features."""
    truth, space = Truth(data), NasBenchMacro()
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in range(SEEDS):
        values = inherited_values(truth, np.random.default_rng([seed, 0]))
        for name, features in free_features(truth, scores).items():
            rng = np.random.default_rng([seed, 1])
            read, verified = search_and_verify(truth, values, features, rng)
            inherited = truth.readings(read, values)
            checked = truth.readings(verified, truth.values)
            alone = Surrogate(space, features=features)
            both = Fidelities(space, features=features).fit(inherited, checked)
            predictions = {
                "inherited alone": alone.fit(*inherited).predict(truth.architectures),
                "verified alone": alone.fit(*checked).predict(truth.architectures),
                "both": both.predict(truth.architectures),
            }
            for source, (mean, deviation) in predictions.items():
                within = np.mean(np.abs(truth.values - mean) < 1.96 * deviation)
                judged = (*truth.judge(mean), within if source != "inherited alone" else np.nan)
                found.setdefault((source, name), []).append(judged)
    shown = Table(box=MARKDOWN)
    for column in ("readings", "features", "tau", "regret", "largest regret", "calibration"):
        side = "left" if column in ("readings", "features") else "right"
        shown.add_column(column, justify=side)
    for key in sorted(found, key=lambda key: [*predictions].index(key[0])):
        mean, deviation = np.mean(found[key], axis=0), np.std(found[key], axis=0, ddof=1)
        cells = [f"{m:.3f} ± {d:.3f}" for m, d in zip(mean[:3], deviation)]
        shown.add_row(*key, *cells, "" if np.isnan(mean[3]) else f"{mean[3]:.0%}")
    return shown
