"""One search, several devices that count: `targets`, `latency.device`, `latency.resource`."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from spaces import small_config, space_values

from configs import Config, UserError
from configs.loading import check_config, config_to_dict
from evaluators import fingerprint
from experiments.devices import gpus_per_worker, latency_device
from experiments.search import search_architectures
from experiments.settings import load_config
from experiments.studies import check_study
from experiments.targets import timed_devices, used_targets
from experiments.tracking.store import local_uri, open_client
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.study import stored_studies

QUICK = {"max_spread": 10, "repeats": 6}
FAST, TWO = "latency_ms@fast", "latency_ms@two"


def config_for(
    search: dict[str, Any] | None = None, targets: dict[str, Any] | None = None
) -> Config:
    return small_config(
        train={"epochs": 1},
        data={"limit": 400},
        latency=QUICK,
        targets=targets
        or {
            "fast": {**QUICK, "device": "cpu", "threads": 1},
            "two": {**QUICK, "threads": 2, "batch": 4},
            "unused": QUICK,
        },
        search={
            "trials": 6,
            "workers": 0,
            "profile_samples": 2,
            "verify": False,
            "objectives": {"cross_entropy": "minimize", FAST: "minimize"},
            "constraints": {TWO: 1000.0},
            **(search or {}),
        },
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    config = config_for()
    workspace = open_workspace(config, tmp_path_factory.mktemp("runs") / "small")
    train_supernet(config, workspace)
    tracker = open_tracker(config, workspace)
    search_architectures(config, workspace, tracker)
    tracker.finish()
    return workspace


def test_two_targets_are_an_objective_and_a_bound(workspace: Workspace) -> None:
    (study,) = stored_studies(f"sqlite:///{workspace.study}")
    assert [record.state for record in study.records] == ["complete"] * 6
    for record in study.records:
        assert record.metrics[TWO] > record.metrics[FAST] > 0  # four images, and one
        assert {"latency_spread@fast", "latency_reference_ms@two"} < record.metrics.keys()
        assert "latency_ms" not in record.metrics
    targets = study.context["targets"]
    assert {name: each["threads"] for name, each in targets.items()} == {"fast": 1, "two": 2}
    assert study.context["units"].keys() == {"fast", "two"}
    for record in study.records:
        for name, unit in study.context["units"].items():
            assert record.metrics[f"latency_reference_ms@{name}"] == unit
    assert study.context["reference_ms"] is None  # nothing is timed without a target


def test_tables_and_mlflow_name_the_targets(workspace: Workspace) -> None:
    with (workspace.report / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row[FAST]) > 0 and float(row[TWO]) > 0 for row in rows)
    client = open_client(local_uri(workspace.directory))
    experiment = client.get_experiment_by_name("evolute")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.info.run_name.startswith("trial-")]
    assert len(trials) == 6
    assert all({"latency_ms.fast", "latency_ms.two"} < run.data.metrics.keys() for run in trials)


def test_the_study_goes_on_and_keeps_its_units(workspace: Workspace) -> None:
    (before,) = stored_studies(f"sqlite:///{workspace.study}")
    result = search_architectures(config_for({"trials": 8}), workspace)
    assert len(result.trials) == 8
    (after,) = stored_studies(f"sqlite:///{workspace.study}")
    assert after.context == before.context


def test_another_device_behind_a_target_is_refused(workspace: Workspace) -> None:
    config = config_for(targets={"fast": {**QUICK, "threads": 2}, "two": {**QUICK, "threads": 2}})
    with pytest.raises(UserError, match=r"targets\.fast\.threads was 1 and is 2 now"):
        check_study(config, workspace)


def test_another_study_shares_what_the_targets_know(workspace: Workspace) -> None:
    """The unit of a target that two studies have is the same; a new one gets its own."""
    targets = {**config_to_dict(config_for())["targets"], "new": {**QUICK, "batch": 2}}
    objectives = {"cross_entropy": "minimize", FAST: "minimize", "latency_ms@new": "minimize"}
    config = config_for({"objectives": objectives, "constraints": {}, "trials": 4}, targets)
    search_architectures(config, workspace.named("other"))
    studies = {study.name: study for study in stored_studies(f"sqlite:///{workspace.study}")}
    first, other = studies["small"].context["units"], studies["small/other"].context["units"]
    assert other.keys() == {"fast", "new"} and other["fast"] == first["fast"]


def written(folder: Path, **sections: Any) -> Path:
    values = {"name": "own", "device": "cpu", "space": space_values(), **sections}
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def test_a_target_that_is_not_there_is_refused_with_file_and_line(tmp_path: Path) -> None:
    objectives = {"accuracy": "maximize", "latency_ms@pi": "minimize"}
    file = written(tmp_path, targets={"pi5": {}}, search={"objectives": objectives})
    line = 1 + file.read_text().splitlines().index("    latency_ms@pi: minimize")
    with pytest.raises(UserError, match=rf"{file}:{line}: .*no target 'pi'.* mean 'pi5'"):
        load_config(file)
    file = written(tmp_path, search={"objectives": objectives})
    with pytest.raises(UserError, match="there are none yet"):
        load_config(file)
    file = written(tmp_path, search={"constraints": {"accuracy@pi5": 1}}, targets={"pi5": {}})
    with pytest.raises(UserError, match=r"constraints\.accuracy@pi5: metric 'accuracy@pi5' does"):
        load_config(file)
    file = written(tmp_path, targets={"pi5": {"runtime": "eagr"}})
    with pytest.raises(UserError, match=r"targets\.pi5\.runtime: .* did you mean 'eager'"):
        load_config(file)
    file = written(tmp_path, targets={"pi5": {"thread": 1}})
    with pytest.raises(UserError, match=r"own.yaml:\d+: .*`targets\.pi5\.thread`.* mean 'threads'"):
        load_config(file)
    with pytest.raises(UserError, match="targets"):
        load_config(written(tmp_path, targets={"pi 5": {}}))


def test_a_resource_needs_ray() -> None:
    match = r"targets\.pi5\.resource: 'pi5' .*workers 0 .* without Ray"
    with pytest.raises(UserError, match=match):
        small_config(targets={"pi5": {"resource": "pi5"}}, search={"workers": 0})
    with pytest.raises(UserError, match=r"latency\.resource"):
        small_config(latency={"resource": "pi5"}, search={"workers": 0})
    with pytest.raises(UserError, match=r"resource: 'GPU' is not possible"):
        small_config(latency={"resource": "GPU"})


def test_the_device_of_a_latency_is_part_of_its_fingerprint_and_of_a_worker(monkeypatch) -> None:
    """A worker whose accuracy is read on the CPU takes a GPU if it times there, and vice versa."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = small_config(latency={"device": "cuda:1"})
    assert latency_device(config, config.latency) == torch.device("cuda:1")
    assert gpus_per_worker(config) == 1
    config = dataclasses.replace(small_config(latency={"device": "cpu"}), device="cuda")
    assert timed_devices(config) == (torch.device("cpu"),)
    assert gpus_per_worker(config) == 1
    assert gpus_per_worker(small_config()) == 0
    shape = (1, 8, 8)
    assert fingerprint(shape, config.latency, latency_device(config, config.latency)) == (
        fingerprint(shape, small_config().latency, "cpu")
    )


def test_only_the_targets_of_the_goal_are_used() -> None:
    assert used_targets(config_for()) == ["fast", "two"]
    assert check_config(config_to_dict(config_for())) == config_for()
