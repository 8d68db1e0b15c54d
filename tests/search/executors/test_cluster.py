"""Searches on a real Ray cluster of several nodes, all on this machine, with made-up GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import run_search
from search_space import Architecture, ChoiceSpace

OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
SPACE = ChoiceSpace([("conv", "inv", "skip")] * 5)
NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 80 * 2**20}
GPU_EACH = {"workers": "auto", "cpus_per_worker": 1, "gpus_per_worker": 1}
ROOT = Path(__file__).parents[3]


class Logged:
    """Notes in a file where each evaluation begins and ends.

    Args:
        joined: A file that will have the id of a node; from then on the others wait until that one
            has begun three evaluations, however long its start takes.
    """

    def __init__(self, log: Path, joined: Path | None = None, seconds: float = 0.3) -> None:
        self.log, self.joined, self.seconds = log, joined, seconds

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        import ray

        entry = {"architecture": "/".join(architecture), "process": os.getpid(),
                 "node": ray.get_runtime_context().get_node_id()}  # fmt: skip
        self._note({**entry, "event": "begin"})
        time.sleep(self.seconds)
        self._wait_for_the_joined(entry["node"])
        self._note({**entry, "event": "end"})
        return cost_of(architecture)

    def _wait_for_the_joined(self, own: str) -> None:
        if self.joined is None or not self.joined.exists():
            return
        node, deadline = self.joined.read_text(), time.monotonic() + 200
        while own != node and time.monotonic() < deadline:
            if sum(entry["node"] == node for entry in events(self.log, "begin")) >= 3:
                break
            time.sleep(0.2)

    def _note(self, entry: dict[str, Any]) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def cost_of(architecture: Architecture) -> dict[str, float]:
    cost = {"conv": 3.0, "inv": 2.0, "skip": 0.5}
    total = sum(cost[name] for name in architecture)
    return {"latency_ms": total, "accuracy": 50 + total**0.5}


def events(log: Path, event: str) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """A cluster of three nodes; the head has no GPU, so that nothing is evaluated there."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_gpus": 0})
    made.add_node(**NODE)
    made.add_node(**NODE)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def send_this_module() -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_nodes_that_leave_and_join(cluster, tmp_path: Path) -> None:
    """One is lost in the middle and another added: as many trials as asked, none blamed for it.

    That holds in a process that searched with a Ray of its own before, which has a token.
    """
    send_this_module()
    alone = run_search(SPACE, cost_of, OBJECTIVES, trials=1, storage=tmp_path / "1.db", workers=1)
    assert [record.state for record in alone.trials] == ["complete"]
    log, file, nodes = tmp_path / "log.jsonl", tmp_path / "joined", list(cluster.worker_nodes)
    joined: list[Any] = []

    def on_trial(record, progress) -> None:
        if progress.done == 8:
            cluster.remove_node(nodes[0], allow_graceful=False)
        if progress.done == 12:
            joined.append(cluster.add_node(**NODE))
            file.with_suffix(".new").write_text(joined[0].node_id)
            file.with_suffix(".new").rename(file)

    result = run_search(
        SPACE, Logged(log, file), OBJECTIVES, trials=40, storage=tmp_path / "study.db",
        address=cluster.address, on_trial=on_trial, **GPU_EACH,
    )  # fmt: skip
    assert len(result.trials) == len({record.architecture for record in result.trials}) == 40
    assert Counter(record.state for record in result.trials) == {"complete": 40}
    ended = Counter(entry["architecture"] for entry in events(log, "end"))
    assert ended.keys() == {"/".join(record.architecture) for record in result.trials}
    begun = events(log, "begin")
    assert len(begun) <= 40 + 2  # only what the lost node was at was begun twice
    places = Counter(entry["node"] for entry in begun)
    assert len(places) == 3  # the lost one, the one that stayed, and the one that was added
    assert places[joined[0].node_id] >= 3
    times: dict[str, list[str]] = defaultdict(list)
    for entry in begun:
        times[entry["node"]].append(entry["process"])
    assert all(len(set(processes)) == 1 for processes in times.values())  # a worker for a GPU


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_cluster
test_cluster.send_this_module()
from search import run_search
run_search(
    test_cluster.SPACE, test_cluster.Logged(Path({log!r})), test_cluster.OBJECTIVES, trials=24,
    storage={storage!r}, address={address!r}, progress=False, **test_cluster.GPU_EACH,
)
"""


def test_a_driver_that_is_killed_and_started_again(cluster, tmp_path: Path) -> None:
    """Nothing finished is evaluated a second time; what was being evaluated is."""
    log, storage = tmp_path / "log.jsonl", tmp_path / "study.db"
    script = DRIVER.format(
        tests=str(Path(__file__).parent),
        log=str(log),
        storage=str(storage),
        address=cluster.address,
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 400
    while len(events(log, "end")) < 8:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=600)
    result = run_search(SPACE, Logged(log), OBJECTIVES, trials=24, storage=storage, workers=0)
    assert Counter(record.state for record in result.trials) == {"complete": 24}
    ended = Counter(entry["architecture"] for entry in events(log, "end"))
    assert ended.keys() == {"/".join(record.architecture) for record in result.trials}
    assert sum(ended.values()) <= 24 + 3  # the two that ran, and one that was not yet written down
