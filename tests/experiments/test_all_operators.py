"""A space of all operators: trained, searched and retrained on real digits, at a tiny size."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from operator_oracles import OPERATORS
from timm.utils import reparameterize_model
from torch import nn
from trainings import one_program

from configs import load_config
from evaluators import inherited_accuracy, measure_accuracy, recalibrate
from experiments.classification import network_trainer, supernet_trainer
from experiments.data.splits import load_splits
from experiments.run import run_pipeline
from search.executors.ray_session import ray_session
from search_space import SearchSpace, build_network, load_architecture
from supernet import Supernet, fit, load_weights


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config():
    return load_config("all_operators", ["train.epochs=1", "data.limit=256"])


@pytest.fixture(scope="module")
def splits(config):
    return load_splits(config, "cpu")


@pytest.fixture(scope="module")
def trained(config, splits) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(SearchSpace(config.space))
    trainer = supernet_trainer(supernet, config.train, splits.train.steps_per_epoch, seed=0)
    losses = []
    fit(trainer, splits.train, on_step=lambda step, loss: losses.append(loss))
    assert losses and np.isfinite(losses).all()
    # fair sampling reaches every candidate of every layer in every step
    assert all(parameter.grad is not None for parameter in supernet.parameters())
    return supernet


def candidates_in_turn(space: SearchSpace) -> list[tuple[str, ...]]:
    """Architectures that together hold every candidate of every layer."""
    longest = max(len(layer.candidates) for layer in space.layers)
    return [
        tuple(layer.candidates[i % len(layer.candidates)] for layer in space.layers)
        for i in range(longest)
    ]


def test_every_operator_is_a_candidate_somewhere(config) -> None:
    space = SearchSpace(config.space)
    used = {space.operator_of(name) for layer in space.layers for name in layer.candidates}
    assert used >= set(OPERATORS)


@torch.no_grad()
def test_extracted_equals_path(trained: Supernet) -> None:
    supernet = trained.double().eval()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    for architecture in candidates_in_turn(supernet.space):
        network = supernet.extract(architecture)
        expected = supernet(images, architecture)
        torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-10)
        deployed = reparameterize_model(network)
        torch.testing.assert_close(deployed(images), expected, rtol=1e-8, atol=1e-8)
        if "dbb3" in architecture:
            assert count_convolutions(deployed) < count_convolutions(network)
    trained.float()


def count_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


def test_paths_are_evaluated_and_learn(config, trained: Supernet, splits) -> None:
    rng = np.random.default_rng(0)
    for architecture in [trained.space.sample(rng) for _ in range(3)]:
        accuracy = inherited_accuracy(trained, architecture, splits.calibration, splits.validation)
        assert 0 <= accuracy <= 100
    network = trained.extract(trained.space.sample(rng))
    trainer = network_trainer(network, config.retrain, splits.train.steps_per_epoch, seed=0)
    images, labels = next(iter(splits.train.epoch(0)))
    losses = [trainer.train_step(images, labels) for _ in range(8)]
    assert min(losses[-3:]) < losses[0]
    recalibrate(network, splits.calibration)
    assert measure_accuracy(network, splits.validation) > 20  # a guess gets 10


def test_searched_and_retrained(tmp_path, monkeypatch) -> None:
    one_program(monkeypatch)
    monkeypatch.chdir(tmp_path)
    tiny = load_config(
        "all_operators",
        ["train.epochs=1", "data.limit=256", "evaluate.calibration_images=64", "search.trials=12",
         "search.workers=1", "search.profile_samples=2", "latency.repeats=6",
         "latency.max_spread=10", "retrain.epochs=2", "search.verify=false",
         "search.sampler=random"],
    )  # fmt: skip
    with ray_session(None, workers=1, cpus_per_worker=1, gpus_per_worker=0):
        winner, baseline = run_pipeline(tiny)
    space = SearchSpace(tiny.space)
    with open(tmp_path / "runs" / "all_operators" / "report" / "trials.csv") as file:
        trials = list(csv.DictReader(file))
    searched = {space.operator_of(name) for t in trials for name in t["architecture"].split()}
    assert len(trials) == 12 and len(searched) >= 9
    assert {space.operator_of(name) for name in baseline.architecture} == {"convolution"}
    for network in (winner, baseline):
        built, architecture = load_architecture(tmp_path / network.folder / "architecture.yaml")
        assert tuple(architecture) == tuple(network.architecture)
        load_weights(
            tmp_path / network.folder / "weights.safetensors", build_network(built, architecture)
        )
        assert 0 <= network.metrics["accuracy"] <= 100
