"""The evaluator of a search: every metric of the goal, from cheap to expensive."""

from __future__ import annotations

import pytest
from spaces import small_config

from configs import UserError
from evaluators import peak_memory_mb
from experiments.evaluator import SupernetEvaluator, latency_fingerprint
from experiments.settings import goal_of
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_workspace
from search import run_search


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    config = small_config(train={"epochs": 1}, data={"limit": 400})
    workspace = open_workspace(config, tmp_path_factory.mktemp("runs") / "small")
    train_supernet(config, workspace)
    return workspace


def evaluator_for(workspace: Workspace, **search) -> SupernetEvaluator:
    config = small_config(
        train={"epochs": 1}, data={"limit": 400}, latency={"max_spread": 10}, search=search
    )
    return SupernetEvaluator(config, workspace)


def test_memory_can_be_searched_for_and_bounded(trained: Workspace) -> None:
    evaluator = evaluator_for(
        trained, objectives={"accuracy": "maximize", "memory_mb": "minimize"}, trials=8
    )
    space = evaluator.supernet.space
    result = run_search(
        space, evaluator, goal_of(evaluator.config).objectives, trials=8, workers=0,
        constraints={"memory_mb": 100.0},
    )  # fmt: skip
    assert {record.state for record in result.trials} == {"complete"}
    for record in result.trials:
        network = evaluator.supernet.extract(record.architecture)
        assert record.metrics["memory_mb"] == pytest.approx(peak_memory_mb(network, (1, 1, 8, 8)))
        assert {"accuracy", "params", "macs"} <= record.metrics.keys()
        assert "latency_ms" not in record.metrics  # nobody asked for it


def test_nothing_expensive_is_measured_over_a_bound(trained: Workspace) -> None:
    evaluator = evaluator_for(trained, constraints={"params": 1.0})
    metrics = evaluator(evaluator.supernet.space.sample(_rng()))
    assert metrics.keys() == {"params", "macs"}
    assert evaluator._splits is None  # no image was loaded
    assert evaluator.profile(evaluator.supernet.space.sample(_rng())).keys() == {
        "params", "macs", "latency_ms", "latency_spread", "latency_reference_ms",
    }  # fmt: skip


def test_another_device_is_refused(trained: Workspace) -> None:
    evaluator = evaluator_for(trained)
    evaluator.expected = {**latency_fingerprint(evaluator.config), "device": "a phone"}
    with pytest.raises(UserError, match="not the one that is searched for: device was 'a phone'"):
        evaluator(evaluator.supernet.space.sample(_rng()))


def _rng():
    import numpy as np

    return np.random.default_rng(0)
