"""Studies of one supernet: what they share, what they refuse, and what they must not overwrite."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console
from spaces import small_config

from configs import Config, UserError
from evaluators import measure_accuracy, recalibrate
from evaluators.metric import METRICS
from experiments.cli import _store
from experiments.data.splits import load_splits
from experiments.evaluator import SupernetEvaluator
from experiments.reporting.front import read_front
from experiments.reporting.tables import front_table
from experiments.search import prepare_search, search_architectures
from experiments.studies import check_study, plan_study, unit_of
from experiments.tracking.store import open_client
from experiments.train import prepare_training, train_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.driver import SearchDriver
from search.study import stored_studies

TRIALS = 6


def config_for(search: dict[str, Any] | None = None, **sections: Any) -> Config:
    search = {
        "trials": TRIALS,
        "workers": 0,
        "profile_samples": 2,
        "verify": False,
        **(search or {}),
    }
    values = {
        "train": {"epochs": 1},
        "data": {"limit": 400},
        "latency": {"max_spread": 10, "repeats": 6},
    }
    return small_config(**{**values, **sections, "search": search})


class Searched:
    """A work directory with a trained supernet and one finished study."""

    def __init__(self, folder: Path) -> None:
        self.config = config_for()
        self.workspace = open_workspace(self.config, folder / "small")
        train_supernet(self.config, self.workspace)
        self.result = search_architectures(self.config, self.workspace)
        self.report = self.files()

    def files(self) -> dict[str, bytes]:
        """Configuration and report."""
        files = [self.workspace.config, *self.workspace.report.rglob("*.csv")]
        return {str(file): file.read_bytes() for file in files}

    def study(self, name: str) -> Workspace:
        return open_workspace(self.config, self.workspace.directory, name)


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Searched:
    return Searched(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The name of every metric that is measured from here on."""
    names: list[str] = []
    for name in ("accuracy", "latency_ms", "memory_mb"):
        metric = METRICS[name]

        def measure(subject, metric=metric):
            names.append(metric.name)
            return metric.measure(subject)

        def race(subject, to_reach, metric=metric):
            names.append(metric.name)
            return metric.race(subject, to_reach)

        counted = dataclasses.replace(metric, measure=measure, race=metric.race and race)
        monkeypatch.setitem(METRICS._entries, name, counted)
    return names


def test_a_new_study_reuses_what_is_known_and_overwrites_nothing(
    searched, measured, capsys
) -> None:
    workspace = searched.study("small")
    weights = searched.workspace.weights.read_bytes()
    start = {"objectives": {"accuracy": "maximize", "params": "minimize"}, "trials": TRIALS}
    config = config_for(start)
    result = search_architectures(config, workspace)
    read = [record for record in searched.result.trials if record.state == "complete"]
    known = {record.architecture: record for record in read}
    both = [record for record in result.trials if record.architecture in known]
    assert len(both) >= 2  # the plain networks are among the first of every search
    for record in both:
        accuracy = known[record.architecture].metrics["accuracy"]
        assert record.metrics["accuracy"] == accuracy
    again = len([record for record in result.trials if record.again])
    assert f"Front, measured again: {again}/{again}" in capsys.readouterr().out
    assert measured.count("accuracy") == TRIALS - len(both) + again
    assert "latency_ms" not in measured
    assert all("latency_ms" not in record.metrics for record in result.trials)

    assert searched.files() == searched.report  # configuration and report of the first
    assert searched.workspace.weights.read_bytes() == weights
    assert workspace.report == searched.workspace.directory / "studies" / "small" / "report"
    assert [r.architecture for r in read_front(workspace.report)] == [
        record.architecture for record in result.front
    ]
    names = {study.name for study in stored_studies(result.storage)}
    assert {"small", "small/small"} <= names
    # its directory is a work directory: retraining finds supernet, configuration and report
    found = Workspace(workspace.directory)
    assert found.weights == searched.workspace.weights.absolute() and found.weights.exists()
    assert "params" in found.config.read_text()


def test_latencies_of_another_study_are_in_the_same_unit(searched, measured) -> None:
    config = config_for({"constraints": {"params": 10_000_000}, "trials": 3})
    plan = plan_study(config, searched.study("unit"))
    (unit,) = {record.metrics["latency_reference_ms"] for record in searched.result.trials}
    assert plan.context["reference_ms"] == unit == unit_of(config, searched.workspace)
    assert measured == []
    architecture, known = next(iter(plan.known.items()))
    evaluator = SupernetEvaluator(config, searched.workspace, None, unit, plan.known)
    assert evaluator(architecture)["latency_ms"] == known["latency_ms"]
    assert measured == []


def test_all_studies_of_a_supernet_are_shown_together(searched) -> None:
    workspace = searched.study("small")
    workspace.directory.mkdir(parents=True, exist_ok=True)
    shown = _store(str(workspace.directory), [], None)
    assert Path(shown) == searched.workspace.directory.absolute()


def test_what_no_longer_holds_is_not_reused(searched) -> None:
    for changed in (
        {"evaluate": {"calibration_images": 64}},
        {"latency": {"max_spread": 10, "batch": 2}},
    ):
        plan = plan_study(config_for(**changed), searched.study("another"))
        assert plan.known == {}
        assert plan.context["reference_ms"] is not None  # its own


def test_what_only_changes_the_speed_is_no_other_study(searched) -> None:
    config = config_for(
        data={"limit": 400, "loading_workers": 1, "memory_limit_mb": 9}, evaluate={"cache_mb": 0}
    )
    workspace = open_workspace(config, searched.workspace.directory)
    check_study(config, workspace)
    assert plan_study(config, workspace).known


def test_what_was_read_in_part_is_read_again(searched, monkeypatch) -> None:
    study = next(study for study in stored_studies(searched.result.storage))
    first = next(record for record in study.records if record.state == "complete")
    stopped = dataclasses.replace(first, state="stopped")
    others = [record for record in study.records if record is not first]
    halted = dataclasses.replace(study, records=[stopped, *others])
    monkeypatch.setattr("experiments.studies.stored_studies", lambda url: [halted])
    known = plan_study(config_for(), searched.study("another")).known[first.architecture]
    read = {"accuracy", "accuracy_images", "cross_entropy", "cross_entropy_deviation"}
    assert {*first.metrics} - {*known} == read


def test_a_study_cannot_have_every_name(searched) -> None:
    for name in ("..", "a/b", ".hidden", "two words"):
        with pytest.raises(UserError, match="--study"):
            searched.study(name)


def test_the_unit_is_stored_with_the_study_and_with_every_latency(
    searched, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # emptied, or of another host
    monkeypatch.setattr("evaluators.latency._units_of_process", {})  # another process
    config = config_for({"trials": TRIALS + 2})
    prepared = prepare_search(config, searched.workspace)
    (study,) = [s for s in stored_studies(prepared.study.url) if s.name == "small"]
    unit = study.context["reference_ms"]
    assert prepared.evaluator.reference_ms == unit  # what every worker is sent
    result = prepared.run()
    assert len(result.trials) == TRIALS + 2
    units = {record.metrics["latency_reference_ms"] for record in result.trials}
    units |= {record.again["latency_reference_ms"] for record in result.trials if record.again}
    assert units == {unit}
    searched.report = searched.files()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"latency": {"max_spread": 10, "batch": 64}}, "fingerprint.batch was 1 and is 64 now"),
        ({"evaluate": {"batch_size": 100}}, "evaluate.batch_size was 256 and is 100 now"),
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"data": {"limit": 300}}, "data.limit was 400 and is 300 now"),
    ],
)
def test_a_study_in_a_shared_storage_refuses_other_values(
    searched, tmp_path, changed: dict[str, Any], named: str
) -> None:
    """Wherever the study is, and whatever the work directory knows of it."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    settings = {"storage": storage, "trials": 2}
    search_architectures(config_for(settings), searched.study("shared"))
    elsewhere = Workspace(tmp_path / "elsewhere" / "studies" / "shared")
    (elsewhere.root / "supernet").mkdir(parents=True)
    elsewhere.weights.write_bytes(searched.workspace.weights.read_bytes())
    check_study(config_for(settings), elsewhere)
    with pytest.raises(UserError, match=named):
        check_study(config_for(settings, **changed), elsewhere)
    with pytest.raises(UserError, match=named):
        prepare_search(config_for(settings, **changed), elsewhere)
    elsewhere.weights.write_bytes(b"other weights")
    with pytest.raises(UserError, match="--rescore"):
        check_study(config_for(settings), elsewhere)


def test_a_study_of_an_earlier_supernet_is_refused_or_scored_anew(tmp_path, monkeypatch) -> None:
    """As people do it: the supernet is removed, another one trained, the search called again."""
    search = {"trials": 4, "racing": False}
    first = config_for(search)
    workspace = open_workspace(first, tmp_path / "small")
    train_supernet(first, workspace)
    with open_tracker(first, workspace) as tracker:
        before = search_architectures(first, workspace, tracker)
    shutil.rmtree(workspace.weights.parent)
    second = config_for(search, train={"epochs": 2})
    train_supernet(second, open_workspace(second, workspace.directory))
    with pytest.raises(UserError, match=r"Put the old weights back.*--out.*--rescore"):
        prepare_search(second, workspace)
    (study,) = stored_studies(before.storage)
    assert [r.metrics for r in study.records] == [r.metrics for r in before.trials]

    def stop(self, architecture, outcome):  # after two of them
        finish(self, architecture, outcome)
        if len(self.study.records) == 2:
            raise KeyboardInterrupt

    finish = SearchDriver.finish
    with monkeypatch.context() as patch, open_tracker(second, workspace) as tracker:
        patch.setattr(SearchDriver, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_search(second, workspace, rescore=True).run(tracker)
    with open_tracker(second, workspace) as tracker:
        after = prepare_search(second, workspace).run(tracker)  # goes on with those that are left
    assert {r.architecture for r in after.trials} == {r.architecture for r in before.trials}
    evaluator = SupernetEvaluator(second, workspace)
    for record in after.trials:
        again = evaluator(record.architecture)
        assert record.metrics["accuracy"] == again["accuracy"]
    client = open_client(f"sqlite:///{workspace.directory / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    trials = [run for run in runs if run.data.tags["evolute.kind"] == "trial"]
    assert len(trials) == 4  # of the present supernet alone


def test_weights_of_other_settings_are_never_taken_for_trained(tmp_path) -> None:
    """Also where the configuration beside them was lost, or is another one."""
    config = config_for()
    workspace = open_workspace(config, tmp_path / "small")
    train_supernet(config, workspace)
    workspace.config.unlink()
    assert prepare_training(config, workspace).parts is None
    changed = config_for(train={"epochs": 3})
    with pytest.raises(UserError, match=r"trained by other settings: train.epochs was 1 and is 3"):
        prepare_training(changed, open_workspace(changed, workspace.directory))


def test_the_second_reading_is_of_images_that_the_search_has_not_read(searched) -> None:
    splits = load_splits(searched.config, "cpu")
    first, second = (torch.cat([images for images, _ in half]) for half in splits.halves)
    assert len(first) + len(second) == splits.sizes["validation"] and len(first) == len(second)
    assert not any(torch.equal(a, b) for a in first for b in second)
    labels = [torch.cat([labels for _, labels in half]) for half in splits.halves]
    counts = [torch.bincount(each, minlength=10) for each in labels]
    assert (counts[0] - counts[1]).abs().max() <= 1  # equal shares of every class
    for each in labels:  # some of them may be read for all: in random order, not by class
        assert (each[:-1] == each[1:]).float().mean() < 0.4
    evaluator = SupernetEvaluator(searched.config, searched.workspace)
    for member in searched.result.front:
        network = evaluator.supernet.extract(member.architecture)
        recalibrate(network, splits.calibration)
        assert member.metrics["accuracy"] == measure_accuracy(network, splits.halves[1])
        assert member.metrics["searched_accuracy"] == measure_accuracy(network, splits.halves[0])
        assert member.metrics["accuracy_images"] == len(second)
        assert member.metrics["searched_accuracy_images"] == len(first)


def test_the_table_shows_both_readings_and_their_errors(searched) -> None:
    text = io.StringIO()
    Console(file=text, width=150).print(front_table(searched.result))
    best = searched.result.front[0].metrics
    row = next(line for line in text.getvalue().splitlines() if line.split()[:1] == ["0"])
    for which in ("", "searched_"):
        accuracy, images = best[f"{which}accuracy"], best[f"{which}accuracy_images"]
        error = METRICS["accuracy"].error({"accuracy": accuracy, "accuracy_images": images})
        digits = 1 if accuracy >= 10 else 2
        assert f"{accuracy:.{digits}f} ± {error:.{digits}f}" in row
    assert "in the search" in text.getvalue()


def test_second_values_reach_the_study_and_mlflow(searched, tmp_path) -> None:
    from mlflow import MlflowClient

    from experiments.workspace import open_tracker

    workspace = searched.study("tracked")
    config = config_for({"trials": 4})
    workspace.keep(config)
    with open_tracker(config, workspace) as tracker:
        result = search_architectures(config, workspace, tracker)
    study = optuna.load_study(study_name="small/tracked", storage=result.storage)
    client = MlflowClient(f"sqlite:///{searched.workspace.directory.absolute() / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "evolute"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["evolute.kind"] == "search"]
    assert parent.info.run_name == "small/tracked"
    trials = {run.info.run_name: run for run in runs}
    confirmed = [record for record in result.trials if record.again]
    assert confirmed
    for record in confirmed:
        assert study.user_attrs[f"again {record.number}"] == record.again
        run = trials[f"trial-{record.number}"]
        for name in ("accuracy", "latency_ms"):
            history = client.get_metric_history(run.info.run_id, name)
            values = [point.value for point in sorted(history, key=lambda point: point.step)]
            both = [record.metrics[name], record.again[name]]
            assert values == pytest.approx(both, rel=1e-5)  # MLflow has six digits


def test_what_was_measured_is_reported_where_nothing_keeps_its_bounds(
    searched, monkeypatch
) -> None:
    bound = max(r.metrics["latency_ms"] for r in searched.result.trials)
    config = config_for({"constraints": {"latency_ms": bound}, "trials": 4})
    workspace = searched.study("bounded")
    again = SupernetEvaluator.again

    def slower(self, architecture):
        return {**again(self, architecture), "latency_ms": 10 * bound}

    monkeypatch.setattr(SupernetEvaluator, "again", slower)
    with pytest.raises(UserError, match=r"none of the \d+ best architectures keeps its bounds"):
        search_architectures(config, workspace)
    front = read_front(workspace.report)
    assert front and {record.metrics["latency_ms"] for record in front} == {10 * bound}


def test_a_bound_that_only_the_smallest_architecture_keeps_is_not_refused(searched) -> None:
    evaluator = SupernetEvaluator(searched.config, searched.workspace)
    space = evaluator.supernet.space
    choices = itertools.product(*(layer.candidates for layer in space.layers))
    smallest = min(
        evaluator.sums(architecture)["params"]
        for architecture in {space.canonical(architecture) for architecture in choices}
    )

    def prepare(bound: float) -> None:
        search = {"constraints": {"params": bound}, "profile_samples": 1,
                  "objectives": {"accuracy": "maximize"}}  # fmt: skip
        prepare_search(config_for(search), searched.study("smallest"))

    prepare(smallest)
    with pytest.raises(UserError, match=rf"can't be met.* between {smallest:.0f}"):
        prepare(smallest - 1)


def test_context_of_a_study_is_readable(searched: Searched) -> None:
    (study,) = [s for s in stored_studies(searched.result.storage) if s.name == "small"]
    assert set(study.context) == {
        "fingerprint", "seed", "data", "evaluate", "supernet", "sampler", "reference_ms",
    }  # fmt: skip
    assert json.dumps(study.context)
