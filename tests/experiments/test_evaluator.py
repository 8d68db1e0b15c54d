"""The evaluator of a search: every metric of the goal, from cheap to expensive."""

from __future__ import annotations

import pytest
from spaces import small_config

from configs import UserError
from configs.errors import Stopped
from evaluators import inherited_accuracy, peak_memory_mb
from experiments.data.splits import load_splits
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


def test_a_race_ends_as_soon_as_the_front_is_out_of_reach(trained: Workspace) -> None:
    evaluator = evaluator_for(trained, objectives={"accuracy": "maximize", "params": "minimize"})
    architecture = evaluator.supernet.space.sample(_rng())
    full = evaluator(architecture)
    images = full["accuracy_images"]
    assert evaluator(architecture, {}) == full
    own = {5: full}
    assert evaluator(architecture, own) == full  # equal ones are on the front together
    fewer = {5: {"accuracy": 100.0, "params": full["params"] + 1}}
    assert evaluator(architecture, fewer) == full  # fewer parameters: no rival
    rivals = {**fewer, 7: {"accuracy": 100.0, "params": full["params"]}}
    with pytest.raises(Stopped, match=r"^\d+ of \d+ images right; trial 7 is better$") as stop:
        evaluator(architecture, rivals)
    partly = stop.value.metrics
    assert partly["accuracy_images"] < images and partly["params"] == full["params"]
    assert 0 <= partly["accuracy"] < 100
    known = SupernetEvaluator(evaluator.config, trained, known={architecture: full})
    assert known(architecture, rivals) == full  # nothing is left to be read


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_shared_beginnings_change_nothing(trained: Workspace, cache_mb: int) -> None:
    config = small_config(
        train={"epochs": 1}, data={"limit": 400}, evaluate={"cache_mb": cache_mb},
        search={"objectives": {"accuracy": "maximize", "params": "minimize"}},
    )  # fmt: skip
    evaluator, splits = SupernetEvaluator(config, trained), load_splits(config, "cpu")
    for last in ("conv3", "inv3", "skip"):
        architecture = ("conv3", "inv3", "conv3", last)
        accuracy = evaluator(architecture)["accuracy"]
        assert accuracy == inherited_accuracy(
            evaluator.supernet, architecture, splits.calibration, splits.halves[0]
        )
    assert (evaluator._prefixes is not None) == (cache_mb > 0)


def test_another_device_is_refused(trained: Workspace) -> None:
    evaluator = evaluator_for(trained)
    evaluator.expected = {**latency_fingerprint(evaluator.config), "device": "a phone"}
    with pytest.raises(UserError, match="not the one that is searched for: device was 'a phone'"):
        evaluator(evaluator.supernet.space.sample(_rng()))


def _rng():
    import numpy as np

    return np.random.default_rng(0)
