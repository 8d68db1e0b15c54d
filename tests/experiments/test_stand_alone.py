"""Training architectures alone: from which weights, on which images, and again after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from spaces import small_config

from configs import Config, UserError
from evaluators import measure_accuracy
from experiments.data.splits import load_splits
from experiments.stand_alone import CHECKPOINT, METRICS_FILE, StandAlone, conditions, train_all
from experiments.train import load_supernet, train_supernet
from experiments.workspace import Workspace
from search_space import build_network, load_architecture
from supernet import load_weights

PLAIN, MIXED = ("conv3",) * 4, ("conv3", "skip", "inv3", "conv3")


def config_for(**retrain) -> Config:
    return small_config(
        train={"epochs": 1},
        data={"limit": 300},
        search={"workers": 0},
        retrain={"epochs": 2, "batch_size": 32, **retrain},
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("alone"))
    train_supernet(config_for(), workspace)
    return workspace


def weights_of(training: StandAlone, architecture) -> dict[str, torch.Tensor]:
    network = build_network(training.space, architecture)
    load_weights(training.folder_of(architecture) / "weights.safetensors", network)
    return network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[key]) for key, value in a.items())


def test_accuracies_are_of_the_two_halves_and_the_files_are_there(workspace, tmp_path) -> None:
    config = config_for()
    training = StandAlone(config, workspace, tmp_path)
    assert not training.finished(MIXED)
    metrics = training(MIXED)
    folder = training.folder_of(MIXED)
    assert training.finished(MIXED) and not (folder / CHECKPOINT).exists()
    assert load_architecture(folder / "architecture.yaml")[1] == MIXED
    assert [e["epoch"] for e in json.loads((folder / "history.json").read_text())] == [1, 2]
    network = build_network(training.space, MIXED)
    load_weights(folder / "weights.safetensors", network)
    halves = load_splits(config, "cpu", statistics=workspace.statistics).halves
    first, second = (measure_accuracy(network.eval(), half) for half in halves)
    assert (metrics["selection_accuracy"], metrics["accuracy"]) == (first, second)
    images = [metrics["selection_accuracy_images"], metrics["accuracy_images"]]
    assert images == [half.images for half in halves]
    assert not set(halves[0].indices) & set(halves[1].indices)


def test_the_start_is_fresh_inherited_or_an_earlier_training(workspace, tmp_path) -> None:
    still = config_for(epochs=1, learning_rate=1e-12, weight_decay=0.0)
    supernet = load_supernet(still, workspace)
    inherited = StandAlone(still, workspace, tmp_path / "inherited", start="inherited")
    fresh = StandAlone(still, workspace, tmp_path / "fresh")
    other = StandAlone(still, workspace, tmp_path / "other", seed=1)
    again = StandAlone(still, workspace, tmp_path / "again", start=tmp_path / "inherited")
    for training in (inherited, fresh, other, again):
        training(PLAIN)
    extracted = supernet.extract(PLAIN).state_dict()
    learnt = [key for key in extracted if key.endswith("weight")]
    for training, alike in ((inherited, True), (again, True), (fresh, False)):
        found = weights_of(training, PLAIN)
        assert alike == all(torch.allclose(found[k], extracted[k], atol=1e-6) for k in learnt)
    assert not same(weights_of(fresh, PLAIN), weights_of(other, PLAIN))
    with pytest.raises(UserError, match="weights"):
        StandAlone(still, workspace, tmp_path / "x", start=tmp_path / "gone")(PLAIN)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    workspace, tmp_path, monkeypatch
) -> None:
    whole = StandAlone(config_for(), workspace, tmp_path / "whole")
    expected = whole(MIXED)

    def stop(self, epoch, values):
        raise KeyboardInterrupt

    training = StandAlone(config_for(), workspace, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.training_history.TrainingHistory.add", stop)
        with pytest.raises(KeyboardInterrupt):
            training(MIXED)
    assert (training.folder_of(MIXED) / CHECKPOINT).exists() and not training.finished(MIXED)
    metrics = StandAlone(config_for(), workspace, tmp_path / "parts")(MIXED)
    assert {**metrics, "seconds": 0} == {**expected, "seconds": 0}
    assert same(weights_of(training, MIXED), weights_of(whole, MIXED))


def test_what_is_finished_is_read_and_the_rest_is_trained(workspace, tmp_path) -> None:
    training = StandAlone(config_for(epochs=1), workspace, tmp_path)
    first = training(MIXED)
    written = (training.folder_of(MIXED) / METRICS_FILE).stat().st_mtime_ns
    done: list[tuple[str, ...]] = []
    found = train_all(training, [PLAIN, MIXED], lambda architecture, _: done.append(architecture))
    assert list(found) == [PLAIN, MIXED] and found[MIXED] == first
    assert done == [MIXED, PLAIN]  # what is finished is known first
    assert (training.folder_of(MIXED) / METRICS_FILE).stat().st_mtime_ns == written
    assert found[PLAIN] == StandAlone(config_for(epochs=1), workspace, tmp_path)(PLAIN)


def test_a_training_that_fails_is_named(workspace, tmp_path) -> None:
    training = StandAlone(config_for(learning_rate=1e30, clip_grad=0.0), workspace, tmp_path)
    with pytest.raises(
        UserError, match=r"training conv3/skip/inv3/conv3 alone fails: .* the loss is"
    ):
        train_all(training, [MIXED])
    failed: list[tuple[str, ...]] = []
    found = train_all(
        training, [MIXED], on_failed=lambda architecture, _: failed.append(architecture)
    )
    assert failed == [MIXED] and not found and not training.finished(MIXED)


def test_conditions_tell_apart_what_cannot_be_compared(workspace, tmp_path: Path) -> None:
    config = config_for()
    own = conditions(config, workspace, seed=0)
    assert own == conditions(config, workspace, seed=0)
    assert own == conditions(config_for(seeds=3), workspace, seed=0)
    assert own != conditions(config, workspace, seed=1)
    assert own != conditions(config_for(epochs=3), workspace, seed=0)
    assert own != conditions(small_config(data={"limit": 299}), workspace, seed=0)
