"""The study on its own: an ordinary Optuna study that refuses another search."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from configs.errors import UserError
from configs.loading import find_config
from search import patience
from search.goal import Goal
from search.run import run_search
from search.storage import sole_driver, storage_url
from search.study import SearchStudy, store_again, stored_studies
from search.trials import UNNUMBERED, TrialRecord
from search_space import ChoiceSpace, SearchSpace

NAMES = ("conv", "inv", "skip")
LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""
OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
GOAL = Goal(OBJECTIVES, {"latency_ms": 3.0})


def test_study_is_an_ordinary_optuna_study(tmp_path: Path) -> None:
    space = ChoiceSpace([NAMES] * 2)
    url = storage_url(tmp_path / "folder" / "study.db")
    study = SearchStudy(url, "mine", space, GOAL)
    metrics = {"accuracy": 80.0, "latency_ms": 2.5}
    study.add(TrialRecord(UNNUMBERED, ("inv", "skip"), metrics, "complete", "", 0.1))
    metrics = {"latency_ms": 5.0}
    study.add(TrialRecord(UNNUMBERED, ("inv", "conv"), metrics, "infeasible", "too slow", 0.1))
    study.add(TrialRecord(UNNUMBERED, ("skip", "conv"), {}, "failed", "broke", 0.1))
    metrics = {"accuracy": 60.0, "latency_ms": 2.6, "accuracy_images": 10.0}
    study.add(TrialRecord(UNNUMBERED, ("inv", "inv"), metrics, "stopped", "trial 0 is better", 0.1))
    study.set_running([("skip", "skip"), ("inv", "skip")])

    trials = optuna.load_study(study_name="mine", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "PRUNED"]
    assert trials[0].values == [80.0, 2.5]
    assert trials[0].params == {"layer_00": "inv", "layer_01": "skip"}
    assert [trial.constraints for trial in trials] == [
        {"latency_ms": -0.5},
        {"latency_ms": 2.0},
        {},
        {"latency_ms": pytest.approx(-0.4)},
    ]
    assert optuna.load_study(study_name="mine", storage=url).best_trials == [trials[0]]

    again = SearchStudy(url, "mine", space, GOAL)
    assert again.records == study.records
    assert again.interrupted == [("skip", "skip")]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"objectives": {"accuracy": "maximize", "params": "minimize"}}, r"objectives\[1\]\[0\]"),
        ({"objectives": {"accuracy": "maximize"}}, "objectives"),
        ({"constraints": {"latency_ms": 4.0}}, r"constraints.latency_ms was 3.0 and is 4.0 now"),
        ({"constraints": {}}, "constraints.latency_ms was 3.0 and is not set now"),
        ({"space": ChoiceSpace([("conv", "skip"), NAMES])}, r"space\[0\]"),
    ],
)
def test_another_search_in_the_same_study_is_refused(
    tmp_path: Path, changed: dict, named: str
) -> None:
    space = changed.get("space", ChoiceSpace([NAMES] * 2))
    objectives = changed.get("objectives", OBJECTIVES)
    goal = Goal(objectives, changed.get("constraints", {"latency_ms": 3.0}))
    url = storage_url(tmp_path / "study.db")
    SearchStudy(url, "mine", ChoiceSpace([NAMES] * 2), GOAL)
    with pytest.raises(UserError, match=named):
        SearchStudy(url, "mine", space, goal)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch": 64}, r"fingerprint\.batch was 1 and is 64 now"),
        ({"device": "a phone"}, r"fingerprint\.device is 'a phone' now and was not set then"),
    ],
)
def test_a_study_refuses_another_context(tmp_path: Path, changed: dict, named: str) -> None:
    url, space = storage_url(tmp_path / "study.db"), ChoiceSpace([NAMES] * 2)
    context = {"fingerprint": {"batch": 1}, "shape": (3, 8), "reference_ms": 0.1 + 0.2}
    SearchStudy(url, "mine", space, GOAL, context)
    SearchStudy(url, "mine", space, GOAL, context)  # as it comes back from the database
    with pytest.raises(UserError, match=named):
        SearchStudy(url, "mine", space, GOAL, {**context, "fingerprint": {"batch": 1, **changed}})
    with pytest.raises(UserError, match="is not set now"):
        SearchStudy(url, "mine", space, GOAL)
    with pytest.raises(UserError, match=r"fingerprint\.batch was 1"):
        run_search(space, dict, OBJECTIVES, trials=1, workers=0, storage=url, study_name="mine",
                   constraints=GOAL.bounds,
                   context={**context, "fingerprint": {"batch": 8}})  # fmt: skip


def test_what_a_storage_holds_is_read_without_touching_it(tmp_path: Path) -> None:
    url, space = storage_url(tmp_path / "folder" / "study.db"), ChoiceSpace([NAMES] * 2)
    assert stored_studies(url) == [] and not (tmp_path / "folder").exists()
    assert stored_studies(None) == []
    study = SearchStudy(url, "mine", space, GOAL, {"seed": 1})
    study.add(TrialRecord(UNNUMBERED, ("inv", "skip"), {"latency_ms": 5.0}, "infeasible", "slow"))
    other = SearchStudy(url, "another", space, Goal({"accuracy": "maximize"}))
    optuna.create_study(storage=url, study_name="theirs")
    mine, another = sorted(stored_studies(url), key=lambda stored: stored.name, reverse=True)
    assert (mine.name, mine.context, mine.records) == ("mine", {"seed": 1}, study.records)
    assert (another.name, another.context, another.records) == ("another", {}, other.records)
    assert mine.difference(space, GOAL, {"seed": 1}) == ""
    assert mine.difference(space, GOAL, {"seed": 2}) == "seed was 1 and is 2 now"


def test_a_second_measurement_is_kept_beside_the_first(tmp_path: Path) -> None:
    url, space = storage_url(tmp_path / "study.db"), ChoiceSpace([NAMES] * 2)
    study = SearchStudy(url, "mine", space, GOAL)
    first = {"accuracy": 80.0, "latency_ms": 2.5}
    for name in NAMES:
        study.add(TrialRecord(UNNUMBERED, ("inv", name), first, "complete"))
    store_again(url, "mine", 1, {"accuracy": 71.0, "latency_ms": 3.5})
    records = SearchStudy(url, "mine", space, GOAL).records
    assert [record.metrics for record in records] == [first] * 3
    assert [record.again for record in records] == [{}, {"accuracy": 71.0, "latency_ms": 3.5}, {}]


def test_networks_of_another_width_are_another_space(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    config = find_config("quickstart")
    space = SearchSpace.from_yaml(config)
    SearchStudy(url, "mine", space, Goal(OBJECTIVES))
    SearchStudy(url, "mine", space, Goal(OBJECTIVES))
    values = space.to_dict()
    values["space"]["stages"][0]["width"] += 8
    with pytest.raises(UserError, match=r"space\.stages\[0\]\.width was"):
        SearchStudy(url, "mine", SearchSpace.from_dict(values), Goal(OBJECTIVES))


def test_foreign_study_and_bad_storage_are_refused(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    optuna.create_study(storage=url, study_name="theirs").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    space = ChoiceSpace([NAMES])
    with pytest.raises(UserError, match="not made by Evolute"):
        SearchStudy(url, "theirs", space, Goal({"accuracy": "maximize"}))
    (tmp_path / "file").write_text("no database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="can't be opened"):
        SearchStudy(storage_url(tmp_path / "file"), "mine", space, Goal(OBJECTIVES))


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    with sole_driver(url), pytest.raises(UserError, match="in use"), sole_driver(url):
        pass
    with sole_driver(url):
        pass


def test_a_result_is_a_table_and_a_study(tmp_path: Path) -> None:
    metrics = {"accuracy": 80.0, "latency_ms": 2.5}
    result = run_search(
        ChoiceSpace([NAMES] * 2),
        lambda architecture: {**metrics, "latency_ms": float(len(set(architecture)))},
        OBJECTIVES,
        trials=5,
        workers=0,
        storage=tmp_path / "study.db",
    )
    table = result.trials_dataframe()
    assert list(table["number"]) == [record.number for record in result.trials]
    assert [*zip(table["layer_00"], table["layer_01"])] == [r.architecture for r in result.trials]
    assert list(table["latency_ms"]) == [r.metrics["latency_ms"] for r in result.trials]
    assert f"{len(result.front)} of {len(result.trials)}" in result._repr_html_()
    front = result.front_dataframe()
    assert list(front["number"]) == [record.number for record in result.front]
    # Optuna's own pictures and importances take it as any other study
    assert len(result.study.trials) == 5
    importances = optuna.importance.get_param_importances(
        result.study, target=lambda trial: trial.values[1]
    )
    assert set(importances) == {"layer_00", "layer_01"}
    axes = optuna.visualization.matplotlib.plot_pareto_front(result.study)
    assert axes.get_xlabel() == "accuracy"
    optuna.visualization.matplotlib.plot_optimization_history(
        result.study, target=lambda trial: trial.values[0]
    )


def test_a_study_in_memory_is_gone() -> None:
    result = run_search(ChoiceSpace([NAMES]), lambda a: {"accuracy": 1.0, "latency_ms": 1.0},
                        OBJECTIVES, trials=2, workers=0)  # fmt: skip
    with pytest.raises(UserError, match="kept in memory"):
        _ = result.study


@contextlib.contextmanager
def locked(file: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process, that locks a database."""
    command = [sys.executable, "-c", LOCKER, str(file), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_locked_database_is_waited_for_and_the_wait_is_told(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(patience, "NOTICE_S", 1.0)
    study = SearchStudy(storage_url(tmp_path / "study.db"), "mine", ChoiceSpace([NAMES]), GOAL)
    metrics = {"accuracy": 80.0, "latency_ms": 2.5}
    with locked(tmp_path / "study.db", 6) as other:
        study.set_running([("skip",)])
        study.add(TrialRecord(UNNUMBERED, ("inv",), metrics, "complete", "", 0.1))
    (record,) = [record for record in caplog.records if record.name == "evolute.study"]
    assert f"locked by process {other.pid} (" in record.getMessage()
    again = SearchStudy(study.url, "mine", ChoiceSpace([NAMES]), GOAL)
    assert [r.architecture for r in again.records] == [("inv",)]
    assert again.interrupted == [("skip",)]


def test_a_database_that_stays_locked_is_a_clear_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(patience, "LIMIT_S", 1.0)
    space = ChoiceSpace([NAMES])
    arguments = {"trials": 3, "workers": 0, "storage": tmp_path / "study.db", "progress": False}
    metrics = {"accuracy": 80.0, "latency_ms": 2.5}
    run_search(space, lambda architecture: metrics, OBJECTIVES, **{**arguments, "trials": 1})
    with locked(tmp_path / "study.db", 60) as other:
        told = rf"study\.db was locked by process {other.pid} .*for 1 s"
        with pytest.raises(UserError, match=told):
            run_search(space, lambda architecture: metrics, OBJECTIVES, **arguments)
    result = run_search(space, lambda architecture: metrics, OBJECTIVES, **arguments)
    assert len(result.trials) == 3
