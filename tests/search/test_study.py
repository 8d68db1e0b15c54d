"""The study on its own: an ordinary Optuna study that refuses another search."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from configs.errors import UserError
from configs.loading import find_config
from search.goal import Goal
from search.run import run_search
from search.study import SearchStudy, sole_driver, storage_url, store_again, stored_studies
from search.trials import UNNUMBERED, TrialRecord
from search_space import ChoiceSpace, SearchSpace

NAMES = ("conv", "inv", "skip")
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
