"""`evolute rank` on real parts: a few networks trained alone, interrupted, and ranked."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import kendalltau
from spaces import small_config

from configs import Config, UserError
from evaluators import measure_accuracy
from experiments import cli, predictors, rank
from experiments.data.splits import load_splits
from experiments.rank import prepare_ranking, rank_predictors
from experiments.reporting.rank import print_ranking, ranking_table
from experiments.stand_alone import METRICS_FILE
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.ranking import Ranking
from search.space_profile import uniform_architectures
from search_space import SearchSpace, build_network, load_architecture
from supernet import load_weights

NETWORKS = 6


def config_of(**sections: Any) -> Config:
    return small_config(
        data={"limit": 700},
        train={"epochs": 1, "batch_size": 32},
        evaluate={"calibration_images": 64},
        retrain={"epochs": 1, "batch_size": 16, "learning_rate": 0.05, "warmup_epochs": 0.2},
        latency={"max_spread": 10, "repeats": 6},
        search={"workers": 0},
        **sections,
    )


@pytest.fixture(scope="module", autouse=True)
def small_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "TIMED", 2)
        patch.setattr(predictors, "SAMPLED", 8)
        yield


@dataclass(frozen=True)
class Story:
    """A ranking that was interrupted once, and asked for again when it was done."""

    config: Config
    workspace: Workspace
    interrupted: dict[Path, int]  # when what was finished then had been written
    finished: dict[Path, int]
    after: dict[Path, int]  # the second call
    first: Ranking
    second: Ranking


def finished(workspace: Workspace) -> dict[Path, int]:
    files = (workspace.directory / "rank").rglob(METRICS_FILE)
    return {file: file.stat().st_mtime_ns for file in files}


def interrupt_after(workspace: Workspace, count: int) -> None:
    """Do as Ctrl-C does, once some networks are trained."""
    while len(finished(workspace)) < count:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    config = config_of()
    workspace = open_workspace(config, tmp_path_factory.mktemp("runs") / "small")
    workspace.keep(config)
    train_supernet(config, workspace)
    watcher = threading.Thread(target=interrupt_after, args=(workspace, 3), daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt), open_tracker(config, workspace) as tracker:
        rank_predictors(config, workspace, networks=NETWORKS, tracker=tracker)
    interrupted = finished(workspace)
    with open_tracker(config, workspace) as tracker:
        first = rank_predictors(config, workspace, networks=NETWORKS, tracker=tracker)
    done = finished(workspace)
    second = rank_predictors(config, workspace, networks=NETWORKS)
    return Story(config, workspace, interrupted, done, finished(workspace), first, second)


def test_nothing_is_trained_twice(story: Story) -> None:
    assert 3 <= len(story.interrupted) < 2 * NETWORKS == len(story.finished)
    assert story.interrupted.items() <= story.finished.items()
    assert story.after == story.finished
    assert story.second.to_dict() == story.first.to_dict()


def test_what_is_ranked(story: Story) -> None:
    networks, space = story.first.networks, SearchSpace(story.config.space)
    plain = uniform_architectures(space)
    assert len({network.architecture for network in networks}) == NETWORKS
    assert set(plain) <= {network.architecture for network in networks if network.plain}
    assert story.first.seeds == (0, 1)
    for network in networks:
        assert network.scores["depth"] == sum(name != "skip" for name in network.architecture)
        assert all(0 <= accuracy <= 100 for accuracy in network.accuracies)
    assert any(len(set(network.accuracies)) == 2 for network in networks)  # another seed


def test_the_truth_is_read_where_no_search_reads(story: Story) -> None:
    splits = load_splits(story.config, "cpu", batch_size=16)
    _, unseen = splits.halves
    assert story.first.images == unseen.images
    network, read = story.first.networks[0], []
    for file in story.finished:  # one a seed
        space, architecture = load_architecture(file.parent / "architecture.yaml")
        if architecture == network.architecture:
            trained = build_network(space, architecture)
            load_weights(file.parent / "weights.safetensors", trained)
            read.append(measure_accuracy(trained, unseen))
    assert sorted(read) == pytest.approx(sorted(network.accuracies))


def test_every_predictor_is_judged(story: Story) -> None:
    ranking = story.first
    assert set(ranking.predictors) == {
        "inherited", "cross_entropy", "surrogate", "depth", "params", "macs", "latency_ms",
        "naswot", "trainability",
    }  # fmt: skip
    truth = [network.truth for network in ranking.networks]
    for name, judged in ranking.predictors.items():
        values = [network.scores[name] for network in ranking.networks]
        assert judged.tau == pytest.approx(kendalltau(values, truth).statistic, nan_ok=True)
    assert ranking.ceiling is not None
    assert any("random architectures" in note for note in ranking.notes)


def test_the_files(story: Story) -> None:
    report = story.workspace.report
    kept = json.loads((report / "rank.json").read_text())
    assert kept == json.loads(json.dumps(story.first.to_dict()))
    assert (report / "rank.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = (report / "rank.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data = json.loads(found[1], parse_constant=pytest.fail)  # a browser reads no NaN
    assert kept.items() <= data.items()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert base64.b64decode(picture) == (report / "rank.png").read_bytes()


def test_the_table_fits_a_terminal(story: Story, capsys) -> None:
    console = Console(width=80, record=True)
    console.print(ranking_table(story.first))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    text = "\n".join(lines)
    assert "second seed (ceiling)" in text and "inherited accuracy" in text
    print_ranking(story.first)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"accuracy on {story.first.images} validation images" in printed


def test_what_mlflow_holds(story: Story) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{story.workspace.directory / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "evolute"]
    runs = client.search_runs([experiment.experiment_id])
    networks = [run for run in runs if run.data.tags["evolute.kind"] == "rank"]
    (parent,) = [run for run in runs if run.data.tags["evolute.kind"] == "search"]
    assert len(networks) == NETWORKS
    by_architecture = {run.data.params["architecture"]: run for run in networks}
    for network in story.first.networks:
        run = by_architecture["/".join(network.architecture)]
        assert run.info.run_name.startswith("rank-") and run.info.status == "FINISHED"
        metrics = run.data.metrics
        assert metrics["accuracy"] == pytest.approx(network.truth, rel=1e-5)  # six digits
        assert metrics["accuracy.seed_1"] == pytest.approx(network.accuracies[1], rel=1e-5)
        names = {"latency_ms", "params", "macs"}  # as for a trial; the others are scores
        expected = {k if k in names else f"score.{k}" for k in network.scores}
        assert expected <= metrics.keys() and "cross_entropy" not in metrics
        assert run.info.end_time - run.info.start_time > 10  # ms: a training, not its logging
    taus = {k: v for k, v in parent.data.metrics.items() if k.startswith("rank_tau.")}
    assert taus["rank_tau.naswot"] == pytest.approx(story.first.predictors["naswot"].tau, rel=1e-5)
    assert "rank_tau.ceiling" in taus and "rank_regret_1.inherited" in parent.data.metrics
    files = {item.path for item in client.list_artifacts(parent.info.run_id, "rank")}
    assert files == {"rank/rank.json", "rank/rank.html", "rank/rank.png"}


def test_the_command_without_a_supernet(tmp_path, monkeypatch, capsys) -> None:
    import yaml

    from configs import config_to_dict

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config_to_dict(config_of())))
    monkeypatch.chdir(tmp_path)
    arguments = ["rank", "tiny.yaml", "--networks", "4", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
    cli.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 trainings, 0 of them done" in printed
    assert "3 trainings, about" in printed
    assert "there is no trained supernet" in printed
    assert "ceiling" not in printed and "inherited accuracy (" not in printed
    values = json.loads(Path("runs/small/report/rank.json").read_text())
    assert values["ceiling"] is None and "inherited" not in values["predictors"]
    assert {len(network["accuracies"]) for network in values["networks"]} == {1}


@pytest.mark.parametrize(
    ("networks", "seeds", "retrain", "expected"),
    [
        (3, 2, {}, "--networks: 3 is not possible; choose from 4 to"),
        (1000, 2, {}, "--networks: 1000 is not possible; choose from 4 to 63"),
        (4, 0, {}, "--seeds: 0"),
        (4, 2, {"inherit": True}, "--set retrain.inherit=false"),
        (4, 2, {"optimizer": "sdg"}, "mean 'sgd'"),
        (4, 2, {"batch_size": 10_000}, "batch_size: 10000"),
    ],
)
def test_what_cannot_be_ranked(
    tmp_path, networks: int, seeds: int, retrain: dict, expected: str
) -> None:
    config = config_of()
    config = dataclasses.replace(config, retrain=dataclasses.replace(config.retrain, **retrain))
    with pytest.raises(UserError) as caught:
        prepare_ranking(config, Workspace(tmp_path / "new"), networks, seeds)
    assert expected in str(caught.value)
    assert not list(tmp_path.iterdir())
