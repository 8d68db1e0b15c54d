"""Samplers and proposals, without an executor."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from benchmarks.nas_bench_macro import DATA, NasBenchMacro, load_table
from configs.errors import UserError
from search.front import hypervolume
from search.goal import Goal
from search.problem import Problem
from search.proposals import Proposer
from search.samplers import SAMPLERS, register_sampler
from search.trials import TrialRecord
from search_space import Architecture, ChoiceSpace

NAMES = ("conv", "inv", "skip")
COST = {"conv": 3.0, "inv": 2.0, "skip": 0.5}
GAIN = {"conv": 4.0, "inv": 3.5, "skip": 0.0}
OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
OURS = ("surrogate", "nsga2", "tpe", "evolution", "random")


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
    """A search without workers; expensive metrics are only paid for where the bounds allow."""
    records: list[TrialRecord] = []
    while len(records) < trials:
        architecture = proposer.propose()
        if architecture is None:
            break
        metrics = dict(table[architecture]) if table else evaluate(architecture)
        state, message = Goal(OBJECTIVES, constraints or {}).judge(metrics)
        if state == "infeasible":
            del metrics["accuracy"]
        records.append(TrialRecord(len(records), architecture, metrics, state, message))
        proposer.learn(records[-1])
    return records


def proposer_for(space: ChoiceSpace, sampler: str, **options: object) -> Proposer:
    goal = Goal(OBJECTIVES, options.pop("constraints", {}))  # type: ignore[arg-type]
    told = {name: options.pop(name) for name in ("trials", "seed", "known") if name in options}
    problem = Problem(space, goal, **{"trials": 60, **told})  # type: ignore[arg-type]
    return Proposer(problem, sampler=sampler, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", OURS)
def test_same_seed_same_proposals_and_no_repetition(sampler: str) -> None:
    space = ChoiceSpace([NAMES] * 5)
    runs = [play(proposer_for(space, sampler, seed=3), 60) for _ in range(2)]
    architectures = [[record.architecture for record in run] for run in runs]
    assert architectures[0] == architectures[1]
    assert len(set(architectures[0])) == 60
    other = play(proposer_for(space, sampler, seed=4), 60)
    assert [record.architecture for record in other] != architectures[0]


@pytest.mark.parametrize("sampler", OURS)
def test_small_space_is_searched_to_its_end(sampler: str) -> None:
    space = ChoiceSpace([NAMES] * 3)
    records = play(proposer_for(space, sampler), 1000)
    assert len({record.architecture for record in records}) == len(records) == 27


@pytest.mark.parametrize("sampler", OURS)
def test_equal_networks_are_proposed_once(sampler: str) -> None:
    class Unordered(ChoiceSpace):
        def canonical(self, architecture: Architecture) -> Architecture:
            return tuple(sorted(architecture))

    records = play(proposer_for(Unordered([NAMES] * 3), sampler), 1000)
    found = {record.architecture for record in records}
    assert len(found) == len(records) == 10  # multisets of 3 out of 3
    assert all(tuple(sorted(architecture)) == architecture for architecture in found)


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2", "tpe", "evolution"])
def test_bound_is_learnt(sampler: str) -> None:
    """Under a bound that 6 % of the space keep, most proposals soon keep it."""
    space = ChoiceSpace([NAMES] * 8)
    bounds = {"latency_ms": 10.0}
    proposer = proposer_for(space, sampler, trials=120, constraints=bounds)
    records = play(proposer, 120, constraints=bounds)
    late = [record.state == "complete" for record in records[60:]]
    assert np.mean(late) > 0.4


@pytest.mark.parametrize("sampler", OURS)
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


@pytest.mark.skipif(not DATA.exists(), reason="NAS-Bench-Macro is not here")
def test_samplers_beat_random_on_nas_bench_macro() -> None:
    """3 seeds, 200 of 3,969 networks each: 0.92 of the true hypervolume is random's."""
    table = {
        architecture: {"accuracy": entry["accuracy"], "latency_ms": entry["flops"] / 1e6}
        for architecture, entry in load_table().items()
    }
    goal = Goal(OBJECTIVES)
    losses = goal.losses(list(table.values()))
    reference = np.array([-85.0, losses[:, 1].max()])
    whole = hypervolume(losses, reference)

    def share(sampler: str) -> float:
        volumes = []
        for seed in range(3):
            proposer = proposer_for(NasBenchMacro(), sampler, trials=200, seed=seed)
            records = play(proposer, 200, table)
            front = goal.losses([record.metrics for record in records])
            volumes.append(hypervolume(front, reference) / whole)
        return float(np.mean(volumes))

    shares = {sampler: share(sampler) for sampler in OURS}
    assert min(shares["nsga2"], shares["tpe"], shares["evolution"]) > shares["random"] + 0.02
    assert shares["surrogate"] > max(shares["nsga2"], shares["tpe"], shares["evolution"])
    assert min(shares["nsga2"], shares["tpe"], shares["evolution"]) > 0.95


def test_any_sampler_of_optuna_is_accepted() -> None:
    space = ChoiceSpace([NAMES] * 4)
    sampler = optuna.samplers.TPESampler(seed=1)
    records = play(proposer_for(space, sampler), 40)
    assert len({record.architecture for record in records}) == 40
    with pytest.raises(UserError, match="3 is neither a name nor an Optuna sampler"):
        proposer_for(space, 3)
    with pytest.raises(UserError, match="sampler 'nsga' does not exist; did you mean 'nsga2'"):
        proposer_for(space, "nsga")


def test_a_sampler_of_ones_own_is_one_registration() -> None:
    class Stubborn:
        """Always proposes the same; the search overrules it."""

        def __init__(self, problem: Problem) -> None:
            self.learnt: list[TrialRecord] = []

        def propose(self) -> Architecture:
            return ("inv",) * 4

        def learn(self, record: TrialRecord) -> None:
            self.learnt.append(record)

    register_sampler("stubborn")(Stubborn)
    assert "stubborn" in SAMPLERS
    records = play(proposer_for(ChoiceSpace([NAMES] * 4), "stubborn"), 20)
    assert records[0].architecture == ("inv",) * 4
    assert len({record.architecture for record in records}) == 20
