"""Searches whose processes are killed at random: log of evaluations, study and MLflow agree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from spaces import small_config, space_values

from configs import Config, config_to_dict, load_config
from experiments.evaluator import SupernetEvaluator
from experiments.search import search_architectures
from experiments.tracking.store import open_client
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.study import stored_studies

KILLS, TRIALS, MANY, WORKERS = 10, 30, 60, 6
PLUGIN = '''
"""A metric that notes every evaluation, when it begins and when it ends."""
import hashlib, json, os, time
from evaluators.metric import EVALUATED, register_metric

def note(event, network):
    entry = {"event": event, "process": os.getpid(),
             "network": hashlib.sha256(repr(network).encode()).hexdigest()}
    with open(LOG, "a") as file:
        file.write(json.dumps(entry) + "\\n")

@register_metric("effort", label="effort", unit="", direction="minimize", effort=EVALUATED)
def effort(subject):
    note("begin", subject.network)
    time.sleep(SECONDS)
    note("end", subject.network)
    return float(len(repr(subject.network)))
'''


def trained(folder: Path, seconds: float, **search: object) -> tuple[Config, Workspace, Path]:
    """A work directory with a supernet, and the file in which evaluations are noted."""
    log = folder / "log.jsonl"
    plugin = folder / "effort_metric.py"
    plugin.write_text(f"LOG, SECONDS = {str(log)!r}, {seconds}\n{PLUGIN}")
    config = small_config(
        space=space_values(candidates=("conv3", "inv3", "dyn3", "skip")),
        data={"name": "digits", "limit": 200},
        train={"epochs": 1, "batch_size": 64},
        search={"profile_samples": 1, "verify": False, "sampler": "random",
                "objectives": {"effort": "minimize", "params": "minimize"}, **search},
        plugins=[str(plugin)],
    )  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    config = load_config(file)
    workspace = open_workspace(config, folder / "out")
    train_supernet(config, workspace)
    return config, workspace, log


def entries(log: Path, event: str) -> list[dict]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def assert_all_agree(
    config: Config, workspace: Workspace, log: Path, trials: int, repeated: int
) -> None:
    """Every trial was evaluated, at most `repeated` of them again, and is in MLflow once."""
    (study,) = stored_studies(f"sqlite:///{workspace.study}")
    assert len(study.records) == len({r.architecture for r in study.records}) == trials
    assert Counter(record.state for record in study.records) == {"complete": trials}
    supernet = SupernetEvaluator(config, workspace).supernet
    networks = {
        hashlib.sha256(repr(supernet.extract(r.architecture)).encode()).hexdigest()
        for r in study.records
    }
    ended = Counter(entry["network"] for entry in entries(log, "end"))
    assert len(networks) == trials and ended.keys() >= networks
    assert sum(ended.values()) <= trials + repeated
    client = open_client(f"sqlite:///{workspace.directory / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    tracked = [run for run in runs if run.data.tags["evolute.kind"] == "trial"]
    assert {run.info.run_name for run in tracked} == {f"trial-{r.number}" for r in study.records}
    assert len(tracked) == trials and {run.info.status for run in tracked} == {"FINISHED"}
    values = {r.number: r.metrics["effort"] for r in study.records}
    for run in tracked:
        number = int(run.info.run_name.removeprefix("trial-"))
        assert run.data.metrics["effort"] == values[number]


def test_the_command_is_killed_ten_times(tmp_path: Path) -> None:
    config, workspace, log = trained(tmp_path, 0.15, trials=TRIALS, workers=0)
    command = [sys.executable, "-m", "evolute", "search", "small.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    draw = random.Random(0)
    for _ in range(KILLS):
        before = len(entries(log, "begin"))
        process = subprocess.Popen(command, cwd=tmp_path, env=environment,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        while len(entries(log, "begin")) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    # what was being evaluated at a kill, or just written down, is evaluated again
    assert_all_agree(config, workspace, log, TRIALS, repeated=KILLS)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as Unix does")
def test_workers_are_killed_at_random(tmp_path: Path) -> None:
    config, workspace, log = trained(tmp_path, 0.1, trials=MANY, workers=2)
    done, killed, draw = threading.Event(), list[int](), random.Random(0)

    def kill() -> None:
        """Kill a worker that is at something, each time that some trials are done."""
        due = draw.randint(2, 8)
        while not done.wait(draw.uniform(0, 0.05)) and len(killed) < WORKERS:
            recent = entries(log, "begin")[-2:]
            if len(entries(log, "end")) < due or not recent:
                continue
            if (process := draw.choice(recent)["process"]) not in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                due = len(entries(log, "end")) + draw.randint(3, 8)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with open_tracker(config, workspace) as tracker:
            search_architectures(config, workspace, tracker)
    finally:
        done.set()
        killer.join()
    assert len(killed) >= WORKERS - 1
    assert_all_agree(config, workspace, log, MANY, repeated=len(killed))
