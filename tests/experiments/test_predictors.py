"""What is known of networks before they are trained alone: from a study, a supernet, or neither."""

from __future__ import annotations

import pytest
from spaces import small_config

from experiments import predictors, rank
from experiments.data.splits import load_splits
from experiments.evaluator import SupernetEvaluator
from experiments.predictors import Scores, read_predictors
from experiments.rank import draw_networks
from experiments.search import search_architectures
from experiments.studies import plan_study, unit_of
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_workspace

CONFIG = small_config(
    data={"limit": 400},
    train={"epochs": 1, "batch_size": 32},
    evaluate={"calibration_images": 64},
    latency={"max_spread": 10, "repeats": 6},
    search={"workers": 0, "trials": 8, "profile_samples": 2, "racing": False},
)


@pytest.fixture(autouse=True)
def few_latencies(monkeypatch) -> None:
    monkeypatch.setattr(rank, "TIMED", 8)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Workspace:
    workspace = open_workspace(CONFIG, tmp_path_factory.mktemp("runs") / "small")
    train_supernet(CONFIG, workspace)
    search_architectures(CONFIG, workspace)
    return workspace


def scores_of(workspace: Workspace) -> Scores:
    splits = load_splits(CONFIG, "cpu", batch_size=32, statistics=workspace.statistics)
    return Scores(CONFIG, workspace, splits, workspace.directory / "scores.json")


def test_what_a_study_knows_is_not_read_again(searched: Workspace) -> None:
    scores, known = scores_of(searched), plan_study(CONFIG, searched).known
    assert len(known) == 8
    for architecture, metrics in known.items():
        for name in ("accuracy", "latency_ms", "params"):
            assert scores(name, architecture) == metrics[name]
    drawn = draw_networks(scores, 6)
    assert len(set(drawn)) == 6
    measured = [scores.values(each) for each in drawn if each not in known]
    assert not any("latency_ms" in values for values in measured)  # the study's sufficed


def test_inherited_accuracy_is_that_of_the_search(searched: Workspace) -> None:
    scores = scores_of(searched)
    new = next(a for a in draw_networks(scores, 12) if a not in scores.known)
    assert scores("accuracy", new) == SupernetEvaluator(CONFIG, searched).score("accuracy", new)
    assert scores("latency_ms", new) > 0
    assert scores.values(new)["latency_reference_ms"] == unit_of(CONFIG, searched)
    again = scores_of(searched)
    assert again.values(new) == scores.values(new)


def test_the_surrogate_learns_from_the_study(searched: Workspace) -> None:
    scores, notes = scores_of(searched), list[str]()
    networks = draw_networks(scores, 6)
    found = read_predictors(scores, networks, notes)
    reading = "the inherited cross entropy of 8 trials of the study"
    assert notes == [f"the surrogate learnt from {reading}"]
    assert {"inherited", "surrogate", "depth", "naswot"} <= found.keys()
    assert all(value < 0 for value in found["cross_entropy"])  # more is better
    assert all(len(values) == 6 for values in found.values())


def test_a_score_that_cannot_be_had_is_left_out(searched: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(predictors, "TRAINING_FREE", ("nastwo",))
    scores, notes = scores_of(searched), list[str]()
    found = read_predictors(scores, draw_networks(scores, 4), notes)
    assert "nastwo" not in found and "params" in found
    assert any(note.startswith("nastwo is left out: ") and "naswot" in note for note in notes)
