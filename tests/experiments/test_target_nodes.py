"""A real Ray cluster on this machine: accuracy is read on one node, latency on another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spaces import small_config

from configs import Config, UserError
from experiments.search import search_architectures
from experiments.train import train_supernet
from experiments.workspace import open_workspace
from search.study import stored_studies

NODE = {"object_store_memory": 80 * 2**20}

PLUGIN = """
import json
import os
from pathlib import Path
import evolute

LOG = Path({log!r})

def note(what):
    import ray
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    with LOG.open("a") as file:
        file.write(json.dumps({{"what": what, "node": node, "process": os.getpid()}}) + "\\n")

@evolute.register_metric("noted", label="noted", direction="minimize", effort=evolute.EVALUATED)
def noted(subject):
    note("accuracy")
    return 1.0

@evolute.register_runtime("logged", synchronous=True, version=lambda: "1")
def logged(model, example, settings):
    note("latency")
    return lambda: model(example)
"""


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """A head that evaluates, and a node for timing alone: it offers `pi5` and no core."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    monkeypatch.setenv("RAY_idle_worker_killing_time_threshold_ms", "600000")  # docs/latency.md
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 2})
    made.target = made.add_node(num_cpus=0, resources={"pi5": 1}, **NODE)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def config_for(plugin: Path, address: str, trials: int = 5, **target: Any) -> Config:
    settings = {"max_spread": 10, "repeats": 6}
    return small_config(
        plugins=[str(plugin)],
        train={"epochs": 1},
        data={"limit": 400},
        latency=settings,
        targets={"pi5": {**settings, "runtime": "logged", "resource": "pi5", **target}},
        search={
            "trials": trials,
            "workers": 1,
            "profile_samples": 2,
            "verify": False,
            "address": address,
            "racing": False,
            "objectives": {"cross_entropy": "minimize", "latency_ms@pi5": "minimize"},
            "constraints": {"noted": 2.0},
        },
    )


def test_accuracy_anywhere_and_latency_on_the_node_that_offers_the_resource(
    cluster, tmp_path: Path
) -> None:
    plugin, log = tmp_path / "noting.py", tmp_path / "log.jsonl"
    plugin.write_text(PLUGIN.format(log=str(log)), encoding="utf-8")
    config = config_for(plugin, cluster.address)
    workspace = open_workspace(config, tmp_path / "small")
    train_supernet(config, workspace)
    result = search_architectures(config, workspace)
    assert [record.state for record in result.trials] == ["complete"] * 5
    assert all(record.metrics["latency_ms@pi5"] > 0 for record in result.trials)

    noted = [json.loads(line) for line in log.read_text().splitlines()]
    times = [entry for entry in noted if entry["what"] == "latency"]
    reads = [entry for entry in noted if entry["what"] == "accuracy"]
    assert len(times) >= 5 and len(reads) >= 5
    assert {entry["node"] for entry in times} == {cluster.target.node_id}
    assert {entry["node"] for entry in reads} == {cluster.head_node.node_id}

    (study,) = stored_studies(f"sqlite:///{workspace.study}")
    result = search_architectures(config_for(plugin, cluster.address, trials=6), workspace)
    assert len(result.trials) == 6  # it goes on, in the unit that it had
    (resumed,) = stored_studies(f"sqlite:///{workspace.study}")
    assert resumed.context == study.context and study.context["units"]["pi5"] > 0

    with pytest.raises(UserError, match=r"targets\.pi5\.batch was 1 and is 2 now"):
        search_architectures(config_for(plugin, cluster.address, batch=2), workspace)
    with pytest.raises(UserError, match=r"no machine of the cluster offers 'pi4'; .*pi5"):
        search_architectures(config_for(plugin, cluster.address, resource="pi4"), workspace)
