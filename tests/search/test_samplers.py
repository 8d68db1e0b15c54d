"""Proposals, judgement of metrics, the study on its own, and the profile of a space: no workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pytest

from configs.errors import UserError
from configs.loading import find_config
from search import SAMPLERS
from search.front import hypervolume, losses_of
from search.progress import describe
from search.proposals import Proposer
from search.space_profile import check_feasible, profile_space
from search.study import SearchStudy, first_difference, sole_driver, storage_url
from search.trials import UNNUMBERED, SearchProgress, TrialRecord, judge
from search_space import Architecture, ChoiceSpace, SearchSpace

NAMES = ("conv", "inv", "skip")
COST = {"conv": 3.0, "inv": 2.0, "skip": 0.5}
GAIN = {"conv": 4.0, "inv": 3.5, "skip": 0.0}
OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
NAS_BENCH = Path(__file__).parents[3] / "shared" / "data" / "nas-bench-macro_cifar10.json"


def evaluate(architecture: Architecture) -> dict[str, float]:
    latency = sum(COST[name] for name in architecture)
    gain = sum(GAIN[name] * (1 + 0.1 * layer) for layer, name in enumerate(architecture))
    return {"latency_ms": latency, "accuracy": 50 + gain}


def play(
    proposer: Proposer,
    trials: int,
    table: dict[Architecture, dict[str, float]] | None = None,
    constraints: dict[str, float] | None = None,
) -> list[TrialRecord]:
    """A search without workers; dear metrics are only paid for where the bounds allow."""
    records: list[TrialRecord] = []
    while len(records) < trials:
        architecture = proposer.propose()
        if architecture is None:
            break
        metrics = dict(table[architecture]) if table else evaluate(architecture)
        state, message = judge(metrics, OBJECTIVES, constraints or {})
        if state == "infeasible":
            del metrics["accuracy"]
        records.append(TrialRecord(len(records), architecture, metrics, state, message))
        proposer.learn(records[-1])
    return records


def proposer_for(space: ChoiceSpace, sampler: str, **options: object) -> Proposer:
    arguments: dict = {"trials": 60, "seed": 0, **options}
    constraints = arguments.pop("constraints", {})
    return Proposer(space, OBJECTIVES, constraints, sampler=sampler, **arguments)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_proposals_and_no_repetition(sampler: str) -> None:
    space = ChoiceSpace([NAMES] * 5)
    runs = [play(proposer_for(space, sampler, seed=3), 60) for _ in range(2)]
    architectures = [[record.architecture for record in run] for run in runs]
    assert architectures[0] == architectures[1]
    assert len(set(architectures[0])) == 60
    other = play(proposer_for(space, sampler, seed=4), 60)
    assert [record.architecture for record in other] != architectures[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_space_is_searched_to_its_end(sampler: str) -> None:
    space = ChoiceSpace([NAMES] * 3)
    records = play(proposer_for(space, sampler), 1000)
    assert len({record.architecture for record in records}) == len(records) == 27


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_networks_are_proposed_once(sampler: str) -> None:
    class Unordered(ChoiceSpace):
        def canonical(self, architecture: Architecture) -> Architecture:
            return tuple(sorted(architecture))

    records = play(proposer_for(Unordered([NAMES] * 3), sampler), 1000)
    found = {record.architecture for record in records}
    assert len(found) == len(records) == 10  # multisets of 3 out of 3
    assert all(tuple(sorted(architecture)) == architecture for architecture in found)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "evolution"])
def test_bound_is_learnt(sampler: str) -> None:
    """Under a bound that 6 % of the space keep, most proposals soon keep it."""
    space = ChoiceSpace([NAMES] * 8)
    bounds = {"latency_ms": 10.0}
    proposer = proposer_for(space, sampler, trials=120, constraints=bounds)
    records = play(proposer, 120, constraints=bounds)
    late = [record.state == "complete" for record in records[60:]]
    assert np.mean(late) > 0.4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_replay_continues_without_repetition(sampler: str) -> None:
    space = ChoiceSpace([NAMES] * 4)
    first = play(proposer_for(space, sampler), 30)
    resumed = proposer_for(space, sampler, records=first, queue=[("inv",) * 4, ("skip",) * 4])
    later = play(resumed, 51)
    assert len({record.architecture for record in [*first, *later]}) == 81


def test_queue_comes_first() -> None:
    space = ChoiceSpace([NAMES] * 4)
    queue = [("skip",) * 4, ("conv",) * 4, ("skip",) * 4]
    proposer = proposer_for(space, "nsga2", queue=queue)
    assert [proposer.propose(), proposer.propose()] == queue[:2]
    assert proposer.propose() not in queue


@pytest.mark.skipif(not NAS_BENCH.exists(), reason="NAS-Bench-Macro is not here")
def test_samplers_beat_random_on_nas_bench_macro() -> None:
    """3 seeds, 200 of 6,561 architectures each: 0.92 of the true hypervolume is random's."""
    names = ("identity", "mb3", "mb6")
    data = json.loads(NAS_BENCH.read_text())
    table = {
        tuple(names[int(digit)] for digit in key): {
            "accuracy": entry["mean_acc"],
            "latency_ms": entry["flops"] / 1e6,
        }
        for key, entry in data.items()
    }
    losses = losses_of(list(table.values()), OBJECTIVES)
    reference = np.array([-85.0, losses[:, 1].max()])
    whole = hypervolume(losses, reference)

    def share(sampler: str) -> float:
        volumes = []
        for seed in range(3):
            proposer = proposer_for(ChoiceSpace([names] * 8), sampler, trials=200, seed=seed)
            play(proposer, 200, table)
            front = losses_of([record.metrics for record in proposer.front], OBJECTIVES)
            volumes.append(hypervolume(front, reference) / whole)
        return float(np.mean(volumes))

    shares = {sampler: share(sampler) for sampler in SAMPLERS}
    assert min(shares["nsga2"], shares["tpe"], shares["evolution"]) > shares["random"] + 0.02
    assert min(shares["nsga2"], shares["tpe"], shares["evolution"]) > 0.95


@pytest.mark.parametrize(
    ("metrics", "state", "named"),
    [
        ({"accuracy": 90.0, "latency_ms": 2.0}, "complete", ""),
        ({"latency_ms": 3.5}, "infeasible", "latency_ms 3.5 > 3"),
        ({"accuracy": 90.0, "latency_ms": 3.0}, "complete", ""),
        ({"latency_ms": 2.0}, "failed", "'accuracy' is missing"),
        ({"accuracy": 90.0}, "failed", "'latency_ms' is missing"),
        ({"accuracy": float("nan"), "latency_ms": 2.0}, "failed", "'accuracy' is nan"),
        ({"accuracy": 90.0, "latency_ms": float("nan")}, "failed", "'latency_ms' is nan"),
        ({"accuracy": None, "latency_ms": 2.0}, "failed", "'accuracy' is None"),
        ({"accuracy": float("inf"), "latency_ms": 2.0}, "failed", "'accuracy' is inf"),
        ({}, "failed", "'accuracy' is missing; the evaluator returned nothing"),
    ],
)
def test_judgement(metrics: dict[str, float | None], state: str, named: str) -> None:
    judged, message = judge(metrics, OBJECTIVES, {"latency_ms": 3.0})
    assert judged == state
    assert named in message


def test_study_is_an_ordinary_optuna_study(tmp_path: Path) -> None:
    space = ChoiceSpace([NAMES] * 2)
    url = storage_url(tmp_path / "folder" / "study.db")
    study = SearchStudy(url, "mine", space, OBJECTIVES, {"latency_ms": 3.0})
    metrics = {"accuracy": 80.0, "latency_ms": 2.5}
    study.add(TrialRecord(UNNUMBERED, ("inv", "skip"), metrics, "complete", "", 0.1))
    metrics = {"latency_ms": 5.0}
    study.add(TrialRecord(UNNUMBERED, ("inv", "conv"), metrics, "infeasible", "too slow", 0.1))
    study.add(TrialRecord(UNNUMBERED, ("skip", "conv"), {}, "failed", "broke", 0.1))
    study.set_running([("skip", "skip"), ("inv", "skip")])

    trials = optuna.load_study(study_name="mine", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert trials[0].values == [80.0, 2.5]
    assert trials[0].params == {"layer_00": "inv", "layer_01": "skip"}
    assert [trial.constraints for trial in trials] == [
        {"latency_ms": -0.5},
        {"latency_ms": 2.0},
        {},
    ]
    assert optuna.load_study(study_name="mine", storage=url).best_trials == [trials[0]]

    again = SearchStudy(url, "mine", space, OBJECTIVES, {"latency_ms": 3.0})
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
    same = {
        "space": ChoiceSpace([NAMES] * 2),
        "objectives": OBJECTIVES,
        "constraints": {"latency_ms": 3.0},
    }
    url = storage_url(tmp_path / "study.db")
    SearchStudy(url, "mine", **same)
    with pytest.raises(UserError, match=named):
        SearchStudy(url, "mine", **{**same, **changed})


def test_networks_of_another_width_are_another_space(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    config = find_config("quickstart")
    space = SearchSpace.from_yaml(config)
    SearchStudy(url, "mine", space, OBJECTIVES, {})
    SearchStudy(url, "mine", space, OBJECTIVES, {})
    values = space.to_dict()
    values["space"]["stages"][0]["width"] += 8
    with pytest.raises(UserError, match=r"space\.stages\[0\]\.width was"):
        SearchStudy(url, "mine", SearchSpace.from_dict(values), OBJECTIVES, {})


def test_foreign_study_and_bad_storage_are_refused(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    optuna.create_study(storage=url, study_name="theirs").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    space = ChoiceSpace([NAMES])
    with pytest.raises(UserError, match="not made by Evolute"):
        SearchStudy(url, "theirs", space, {"accuracy": "maximize"}, {})
    (tmp_path / "file").write_text("no database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="can't be opened"):
        SearchStudy(storage_url(tmp_path / "file"), "mine", space, OBJECTIVES, {})


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    url = storage_url(tmp_path / "study.db")
    with sole_driver(url), pytest.raises(UserError, match="in use"), sole_driver(url):
        pass
    with sole_driver(url):
        pass


def test_first_difference_finds_the_place() -> None:
    stored = {"stages": [{"width": 16, "stride": 1}, {"width": 32, "stride": 2}]}
    wanted = {"stages": [{"width": 16, "stride": 1}, {"width": 48, "stride": 2}]}
    assert first_difference(stored, wanted) == "stages[1].width was 32 and is 48 now"
    assert first_difference(stored, stored) == ""


def test_profile_finds_the_ends_and_the_feasible_share() -> None:
    space = ChoiceSpace([NAMES] * 8)
    profile = profile_space(space, evaluate, {"latency_ms": 14.0}, samples=200)
    latency = profile.ranges["latency_ms"]
    assert (latency.smallest, latency.largest) == (4.0, 24.0)
    assert latency.median == pytest.approx(8 * 5.5 / 3, rel=0.1)
    assert 0.3 < profile.feasible < 0.6
    check_feasible(profile)


def test_impossible_bound_is_refused_with_the_range() -> None:
    space = ChoiceSpace([NAMES] * 8)
    profile = profile_space(space, evaluate, {"latency_ms": 3.9})
    assert profile.feasible == 0
    with pytest.raises(UserError, match=r"latency_ms: 3\.9 can't be met.* between 4 and 24"):
        check_feasible(profile)
    with pytest.raises(UserError, match=r"constraints\.macs: not among the cheap metrics"):
        profile_space(space, evaluate, {"macs": 1e6})


def test_wrong_address_is_refused_at_once() -> None:
    from search.executors.ray import ray_session

    session = ray_session("127.0.0.1:1", workers=1, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(UserError, match=r"'127\.0\.0\.1:1': no Ray cluster"), session:
        pass


def test_progress_in_one_line() -> None:
    progress = SearchProgress(
        done=12,
        total=60,
        counts={"complete": 9, "infeasible": 3},
        front_size=4,
        best={"accuracy": 91.0},
        hypervolume=8.3145,
        seconds_left=3725.0,
    )
    line = "trial 12/60  front 4  hypervolume 8.315  infeasible 3  left 1:02:05"
    assert describe(progress) == line
    assert describe(progress, bar=True) == f"{'━' * 4}{'╌' * 16}  {line}"
