"""What a front would reach if it were trained on its own, from folders of retrained networks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from spaces import small_space

from experiments.reporting.plots import VERIFIED, plot_front
from experiments.reporting.tables import front_table
from experiments.retrained import Retrained
from experiments.verified import LEAST, predict_verified
from search.goal import Goal
from search.trials import SearchResult, TrialRecord
from search_space import Architecture

SPACE = small_space()
NAMES = ("conv3", "dw5", "inv3", "sk")  # the truth: each is 1.5 points better than the one before
GOAL = Goal({"accuracy": "maximize", "params": "minimize"})


def true_accuracy(architecture: Architecture) -> float:
    return 80 + sum(1.5 * NAMES.index(name) for name in architecture if name in NAMES)


def searched() -> SearchResult:
    """Sixty trials whose inherited accuracy is half the truth, with noise."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(60):
        architecture = tuple(NAMES[i] for i in rng.integers(4, size=4))
        accuracy = true_accuracy(architecture) / 2 + rng.normal(0, 0.5)
        metrics = {"accuracy": accuracy, "accuracy_images": 400.0, "params": 1e5 + 100.0 * number}
        records.append(TrialRecord(number, architecture, metrics, "complete"))
    return SearchResult(records, GOAL.front(records), GOAL, "small", None)


def retrain(folder: Path, architecture: Architecture, conditions: str = "one") -> None:
    network = Retrained(
        name="-".join(architecture), folder=folder / "-".join(architecture),
        architecture=architecture, metrics={"validation_accuracy": true_accuracy(architecture)},
        seeds=[0], test_accuracies=[0.0], latencies={}, class_names=[], conditions=conditions,
        plain=False, inherited=False,
    )  # fmt: skip
    network.folder.mkdir(parents=True)
    network.write()


def test_a_prediction_is_of_the_verified_accuracy_and_says_how_sure_it_is(tmp_path) -> None:
    result = searched()
    for name in NAMES:
        retrain(tmp_path, (name,) * 4)
    retrain(tmp_path, ("conv3", "sk", "conv3", "sk"))
    predicted = predict_verified(result, SPACE, tmp_path)
    assert predicted.keys() == {member.architecture for member in result.front}
    for architecture, verified in predicted.items():
        off = abs(verified.accuracy - true_accuracy(architecture))
        assert off < 4 and off < 3 * verified.error
        assert 0 < verified.error < 6
        low, high = verified.interval
        assert low < verified.accuracy < high < 100
        missing = 100 - verified.accuracy  # the interval is even on the scale of its logarithm
        width = np.log((100 - low) / (100 - high))
        assert width == pytest.approx(2 * 1.96 * verified.error / missing)


def test_nothing_is_predicted_from_too_few_or_from_what_cannot_be_compared(tmp_path) -> None:
    result = searched()
    assert not predict_verified(result, SPACE, tmp_path / "none")
    for name in NAMES[: LEAST - 1]:
        retrain(tmp_path, (name,) * 4)
    retrain(tmp_path, (NAMES[-1],) * 4, conditions="another recipe")
    retrain(tmp_path, ("of", "another", "space", "it", "is"))
    (tmp_path / "unfinished").mkdir()
    assert not predict_verified(result, SPACE, tmp_path)


def test_the_report_shows_predictions_where_there_are_any(tmp_path) -> None:
    result = searched()
    for name in NAMES:
        retrain(tmp_path, (name,) * 4)
    verified = predict_verified(result, SPACE, tmp_path)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(front_table(result, verified))
    first = verified[result.front[0].architecture]
    text = console.export_text()
    assert "trained alone, predicted (%)" in text
    assert f"{first.accuracy:.1f} ± {first.error:.1f}" in text
    from matplotlib.image import imread

    rgb = [int(VERIFIED[i : i + 2], 16) for i in (1, 3, 5)]
    shown, plain = (
        (imread(plot_front(result, tmp_path / name, them))[:, :, :3] * 255).round().astype(int)
        for name, them in (("with.png", verified), ("without.png", {}))
    )
    assert (shown == rgb).all(axis=2).sum() > 100 and not (plain == rgb).all(axis=2).any()
