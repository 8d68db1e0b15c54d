"""What is reported as best was trained alone, on images by which nothing had selected it."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from typing import Any

import pytest
from anything import quick
from hypothesis import given
from hypothesis import strategies as st
from spaces import small_config

from configs import Config
from configs.errors import TooNoisy
from evaluators.metric import describe_metric
from experiments import search as search_module
from experiments.confirmation import confirm_verified
from experiments.reporting.front import pick, read_front
from experiments.reporting.verified import VerifiedNetwork
from experiments.search import prepare_search, search_architectures
from experiments.stand_alone import StandAlone
from experiments.train import train_supernet
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.goal import Goal
from search.space_profile import uniform_architectures
from search.trials import SearchResult, TrialRecord
from search_space import SearchSpace

GOAL = Goal({"accuracy": "maximize", "latency_ms": "minimize"}, {"latency_ms": 9.0})


def config_for(budget: float = 4.0, **search: Any) -> Config:
    return small_config(
        train={"epochs": 2},
        data={"limit": 400},
        latency={"max_spread": 10, "repeats": 6},
        search={"trials": 8, "workers": 0, "profile_samples": 2, **search},
        retrain={"epochs": 8},
        verify={"budget": budget},
    )


@dataclasses.dataclass
class Story:
    """A search whose verification was interrupted in its second rung, and then went on."""

    config: Config
    workspace: Workspace
    before: list[str]  # the trainings, as rung/key, until the interruption
    after: list[str]
    printed: str
    result: SearchResult

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.workspace.report / "verified.csv").open() as file:
            return list(csv.DictReader(file))

    def finished(self) -> dict[str, dict[str, float]]:
        """The metrics of all trainings on disk, by rung/key."""
        files = self.workspace.verified.rglob("metrics.json")
        return {
            f"{file.parent.parent.name}/{file.parent.name}": json.loads(file.read_text())
            for file in files
        }

    def child_runs(self) -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.workspace.directory / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments)
        return [run for run in runs if run.data.tags["evolute.kind"] == "verify"]


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    config, trainings = config_for(), list[str]()
    workspace = open_workspace(config, tmp_path_factory.mktemp("verified"))
    train_supernet(config, workspace)
    train, track = StandAlone._train, search_module.track_training

    def counted(self, architecture, folder):
        trainings.append(f"{folder.parent.name}/{folder.name}")
        return train(self, architecture, folder)

    def stop(tracker, record, rung, *rest):
        track(tracker, record, rung, *rest)
        if rung == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandAlone, "_train", counted)
        patch.setattr(search_module, "track_training", stop)
        with pytest.raises(KeyboardInterrupt), open_tracker(config, workspace) as tracker:
            search_architectures(config, workspace, tracker)
        patch.setattr(search_module, "track_training", track)
        before = list(trainings)
        with (
            search_module.console.capture() as captured,
            open_tracker(config, workspace) as tracker,
        ):
            result = search_architectures(config, workspace, tracker)
    return Story(config, workspace, before, trainings[len(before) :], captured.get(), result)


def test_an_interrupted_verification_trains_nothing_twice(story: Story) -> None:
    assert Counter(name.split("/")[0] for name in story.before)["rung-1"] == 1
    trainings = story.before + story.after
    assert len(set(trainings)) == len(trainings)
    assert sorted(trainings) == sorted(story.finished())
    assert f"Verification: {len(trainings)}/{len(trainings)} rung" in story.printed


def test_all_that_were_trained_are_in_the_table(story: Story) -> None:
    rungs = Counter(name.split("/")[0] for name in story.finished())
    last = len(rungs) - 1
    assert last >= 1
    assert len(story.rows) == rungs["rung-0"]
    assert sum(row["state"] == "verified" for row in story.rows) == rungs[f"rung-{last}"]
    for row in story.rows:
        state = "verified" if int(row["rung"]) == last else f"dropped at rung {row['rung']}"
        assert row["state"] == state
        assert float(row["accuracy_error"]) > 0 and float(row["latency_ms"]) > 0
        assert int(float(row["params"])) > 0 and float(row["inherited_accuracy"]) > 0
    space = SearchSpace(story.config.space)
    plain = {" ".join(architecture) for architecture in uniform_architectures(space)}
    slowest = max(float(row["latency_ms"]) for row in story.rows)
    found = {row["architecture"] for row in story.rows if row["plain"] == "True"}
    assert found <= plain
    for record in story.result.trials:
        if " ".join(record.architecture) in plain - found:  # only slower ones are left out
            assert record.metrics["latency_ms"] > 0.8 * slowest


def test_the_accuracy_that_is_reported_is_of_unseen_images(story: Story) -> None:
    (folder,) = (path for path in story.workspace.verified.iterdir() if path.is_dir())
    training = StandAlone(story.config, story.workspace, folder / "rung-0")
    metrics = story.finished()
    for row in story.rows:
        key = training.folder_of(tuple(row["architecture"].split())).name
        trained = metrics[f"rung-{row['rung']}/{key}"]
        assert float(row["accuracy"]) == trained["accuracy"]
        assert float(row["selection_accuracy"]) == trained["selection_accuracy"]


def test_the_front_is_that_of_the_verified_networks(story: Story) -> None:
    verified = {row["architecture"]: row for row in story.rows if row["state"] == "verified"}
    front = read_front(story.workspace.report)
    assert front and [r.architecture for r in front] == [r.architecture for r in story.result.front]
    for member in front:
        row = verified[" ".join(member.architecture)]
        for name in ("accuracy", "inherited_accuracy", "latency_ms"):
            assert member.metrics[name] == float(row[name])
        for other in verified.values():  # nobody dominates it
            accuracy, latency = float(other["accuracy"]), float(other["latency_ms"])
            assert accuracy < member.metrics["accuracy"] or (
                latency >= member.metrics["latency_ms"]
            )
    highest = max(front, key=lambda r: r.metrics["accuracy"])
    error = describe_metric("accuracy").error(highest.metrics)
    near = [r for r in front if r.metrics["accuracy"] >= highest.metrics["accuracy"] - error]
    assert pick(front, "best") == min(near, key=lambda r: r.metrics["latency_ms"])
    assert "Verified front" in story.printed and "inherited" in story.printed
    assert "Kendall's tau" in story.printed
    assert "Front, measured again" not in story.printed  # the inherited one selects nothing


def test_what_mlflow_holds(story: Story) -> None:
    runs = story.child_runs()
    rows = {f"verify-{row['number']}": row for row in story.rows}
    assert {run.data.tags["mlflow.runName"] for run in runs} == set(rows)
    for run in runs:
        row = rows[run.data.tags["mlflow.runName"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == row["state"]
        assert run.data.tags["plain"] == row["plain"].lower()
        layers = [run.data.params[f"layer_{index:02d}"] for index in range(4)]
        assert " ".join(layers) == row["architecture"]
        for name in ("accuracy", "selection_accuracy", "latency_ms"):
            assert run.data.metrics[name] == pytest.approx(float(row[name]), rel=1e-5)


def test_running_it_again_trains_measures_and_tracks_nothing(story: Story, monkeypatch) -> None:
    monkeypatch.setattr(StandAlone, "_train", lambda *_: pytest.fail("it was trained"))
    monkeypatch.setattr(
        search_module.SupernetEvaluator, "again", lambda *_: pytest.fail("it was measured")
    )
    tracked = (story.workspace.directory / "tracking.jsonl").read_text()
    with open_tracker(story.config, story.workspace) as tracker:
        result = search_architectures(story.config, story.workspace, tracker)
    assert result.front == story.result.front
    now = (story.workspace.directory / "tracking.jsonl").read_text()[len(tracked) :]
    assert "verify-" not in now


def test_a_larger_budget_goes_on_from_what_was_trained(story: Story, monkeypatch) -> None:
    trained = set(story.finished())
    prepared = prepare_search(config_for(budget=40.0), story.workspace)
    monkeypatch.setattr(StandAlone, "_train", lambda *_: pytest.fail("it was trained"))
    plain = search_module.PlainNetworks(
        prepared.space, story.workspace.verified / "plain.json", prepared.evaluator.profile
    )
    as_searched = dataclasses.replace(
        story.result, front=story.result.goal.front(story.result.trials)
    )
    small, large = (
        dataclasses.replace(prepared, config=config_for(budget))._plan_verification(
            as_searched, plain
        )
        for budget in (4.0, 40.0)
    )
    assert small.folder == large.folder
    assert small.share <= 4 < large.share <= 40
    assert large.halving.rungs > small.halving.rungs
    keys = {large.training(0).folder_of(a).name for a in large.halving.entrants}
    assert {name.split("/")[1] for name in trained} <= keys


@pytest.mark.parametrize(
    ("search", "budget", "expected"),
    [
        (
            {"objectives": {"params": "minimize", "macs": "minimize"}},
            4.0,
            "accuracy is no objective",
        ),
        ({}, 0.05, "verify.budget is 0.05; raise it"),
    ],
)
def test_what_cannot_be_verified_is_said_and_the_search_is_reported(
    story: Story, capsys, search: dict[str, Any], budget: float, expected: str
) -> None:
    study = f"not-{budget}"
    workspace = open_workspace(story.config, story.workspace.directory, study)
    result = search_architectures(config_for(budget, trials=4, **search), workspace)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("Nothing is verified: ") == 1 and expected in printed
    assert "Front, measured again" in printed and "Verified front" not in printed
    assert [r.architecture for r in read_front(workspace.report)] == [
        record.architecture for record in result.front
    ]
    assert not (workspace.report / "verified.csv").exists()


def test_without_a_cost_the_front_is_the_most_accurate_network(story: Story) -> None:
    workspace = open_workspace(story.config, story.workspace.directory, "accuracy")
    objectives = {"objectives": {"accuracy": "maximize"}, "trials": 2}
    result = search_architectures(config_for(**objectives), workspace)
    with (workspace.report / "verified.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(float(row["accuracy"]) for row in rows if row["state"] == "verified")
    assert {record.metrics["accuracy"] for record in result.front} == {best}
    # two trials can't have been of all plain networks; the others were found all the same
    plain = uniform_architectures(SearchSpace(story.config.space))
    rows = [row for row in rows if row["plain"] == "True"]
    assert {row["architecture"] for row in rows} == {" ".join(each) for each in plain}
    kept = json.loads((workspace.verified / "plain.json").read_text())
    assert len(kept) == sum(int(row["number"]) < 0 for row in rows) > 0


def verified(
    number: int, values: tuple[float, float], plain: bool = False, finished: bool = True
) -> VerifiedNetwork:
    """A network whose search has read 50 %, with this verified accuracy and first latency."""
    accuracy, latency = values
    metrics = {"accuracy": 50.0, "accuracy_images": 100.0, "latency_ms": latency}
    record = TrialRecord(number, (f"a{number}",), metrics, "stopped")
    trained = {"accuracy": accuracy, "accuracy_images": 100.0, "selection_accuracy": 1.0}
    return VerifiedNetwork(record, trained, plain, rung=1 if finished else 0, finished=finished)


def result_of(networks: list[VerifiedNetwork]) -> SearchResult:
    return SearchResult([network.record for network in networks], [], GOAL, "made", None)


values = st.tuples(st.integers(0, 5).map(float), st.integers(1, 5).map(float))


@quick
@given(
    st.lists(st.tuples(values, st.integers(1, 5), st.booleans(), st.booleans()), min_size=1),
    st.sampled_from(["best", "knee", "fastest-within 1%", "fastest-within 2.5%", 0]),
)
def test_no_pick_is_dominated_by_a_verified_network(drawn, choice) -> None:
    networks = [
        verified(number, values, plain, finished=finished or number == 0)
        for number, (values, _, plain, finished) in enumerate(drawn)
    ]
    again = {f"a{number}": float(latency) for number, (_, latency, _, _) in enumerate(drawn)}

    def measure(architecture):  # a second latency, and an inherited accuracy that misleads
        if again[architecture[0]] == 5:
            raise TooNoisy("busy")
        return {"accuracy": 90.0 - again[architecture[0]], "latency_ms": again[architecture[0]]}

    result, confirmed = confirm_verified(result_of(networks), networks, measure, lambda _: None)
    picked = pick(result.front, choice).metrics
    for network in confirmed:
        metrics = network.reported.metrics
        if network.finished:
            better = metrics["accuracy"] > picked["accuracy"]
            assert not (better and metrics["latency_ms"] <= picked["latency_ms"])
            faster = metrics["latency_ms"] < picked["latency_ms"]
            assert not (faster and metrics["accuracy"] >= picked["accuracy"])
    unfinished = {n.record.architecture for n in networks if not n.finished}
    assert not unfinished & {member.architecture for member in result.front}


def test_where_cross_entropy_was_searched_for_the_front_is_one_of_accuracy() -> None:
    goal = Goal({"cross_entropy": "minimize", "latency_ms": "minimize"}, {"cross_entropy": 1.0})
    read = {"cross_entropy": 0.9, "cross_entropy_deviation": 0.1}
    networks = [verified(0, (90.0, 8.0)), verified(1, (80.0, 8.5))]
    for network in networks:
        network.record.metrics.update(read)
    result = dataclasses.replace(result_of(networks), goal=goal)
    again = {**read, "cross_entropy": 1.5, "latency_ms": 8.0, "accuracy": 40.0}
    result, _ = confirm_verified(result, networks, lambda _: again, lambda _: None)
    assert dict(result.goal.objectives) == {"accuracy": "maximize", "latency_ms": "minimize"}
    (member,) = result.front
    assert member.metrics["accuracy"] == 90.0 and "cross_entropy" not in member.metrics
    assert member.metrics["inherited_cross_entropy"] == 1.5
    assert not any(name.startswith("searched_cross") for name in member.metrics)


def test_a_verified_network_over_its_bound_leaves_and_all_of_them_are_said() -> None:
    networks = [verified(0, (90.0, 8.0)), verified(1, (80.0, 8.5))]
    second = {"a0": 9.5, "a1": 8.6}
    stored: list[TrialRecord] = []

    def measure(architecture):
        return {"latency_ms": second[architecture[0]]}

    result, _ = confirm_verified(result_of(networks), networks, measure, stored.append)
    assert [member.number for member in result.front] == [1] and result.note == ""
    assert [record.again for record in stored] == [{"latency_ms": 9.5}, {"latency_ms": 8.6}]
    second["a1"] = 9.1
    result, _ = confirm_verified(result_of(networks), networks, measure, stored.append)
    assert [member.state for member in result.front] == ["infeasible"] * 2
    assert "none of the 2 verified networks" in result.note and "9.1 > 9" in result.note
