"""What a page says of numbers whose verdict is known."""

from __future__ import annotations

import dataclasses

import pytest
from spaces import small_config, small_space

from experiments.reporting.baselines import Trained
from experiments.reporting.families import chosen_families, family_effects, layers_offering
from experiments.reporting.findings import findings
from experiments.reporting.networks import contest, trained_networks
from experiments.tracking.record import TrackedRun
from search.trials import TrialRecord

PICK = [70.0, 71.0, 70.5]


def trained(name: str, kind: str, test: list[float], latency: float | None = 1.0, **changes):
    seeds = dict(enumerate(test))
    values = {"plain": kind == "family", "validation": seeds, "params": 1e5, "macs": 1e6}
    return Trained(name=name, kind=kind, test=seeds, latency_ms=latency, **{**values, **changes})


@pytest.mark.parametrize(
    ("plain", "outcome", "said"),
    [
        ([68.0, 69.1, 68.4], "wins", "**wins** against the plain network convolution"),
        ([72.0, 73.1, 72.4], "loses", "**loses** against the plain network convolution"),
        ([69.0, 72.5, 70.0], "equals", "**equals** the plain network convolution"),
        ([70.0, 71.0, 70.5], "equals", "+0.00 points, alike in all seeds"),
        ([68.0, 69.0, 68.5], "is not decided", "alike in all seeds: there is no test"),
    ],
)
def test_the_outcome_is_that_of_the_paired_test(plain, outcome: str, said: str) -> None:
    networks = [trained("best", "pick", PICK), trained("convolution", "family", plain)]
    assert contest(networks).outcome == outcome
    text = findings(networks, [], small_config(), verified=False)
    assert said in text
    assert ("paired over 3 seeds" in text) is (outcome != "is not decided")


def test_one_seed_decides_nothing() -> None:
    networks = [trained("best", "pick", [70.0]), trained("convolution", "family", [60.0])]
    assert contest(networks).outcome == "is not decided"
    text = findings(networks, [], small_config(), verified=False)
    assert "+10.00 points" in text and "one seed decides nothing" in text
    assert "wins" not in text and "noise of training" in text


def test_the_rival_is_plain_as_fast_and_chosen_on_validation_images() -> None:
    networks = [
        trained("best", "pick", PICK),
        trained("slow", "family", [90.0, 91.0, 92.0], latency=1.2),
        trained("untimed", "family", [90.0, 91.0, 92.0], latency=None),
        trained("tested", "family", [80.0, 81.0, 82.0], validation={0: 1.0}),
        trained("validated", "family", [60.0, 61.0, 62.0], 1.04, validation={0: 2.0}),
        trained("random-0", "random", [95.0, 96.0, 97.0], validation={0: 3.0}),
    ]
    found = contest(networks)
    assert found.plain is not None and found.plain.name == "validated"
    assert found.rivals == 2
    text = findings(networks, [], small_config(), verified=False)
    assert "the most accurate on validation images of 2" in text
    assert "The best of 1 random architectures of its latency has 96.00" in text


def test_a_plain_pick_is_called_so_and_compared_with_the_best_hybrid() -> None:
    plain = {"plain": True, "architecture": ("dw7", "dw7")}
    networks = [
        trained("best", "pick", PICK, epochs=2, **plain),
        trained("convolution", "family", [60.0, 61.0, 60.6]),
        trained("front-1", "front", [69.0, 70.5, 69.2], 0.9, architecture=("dw7", "conv3")),
        trained("front-2", "front", [50.0, 51.5, 50.2], 0.8, architecture=("dw7", "inv3")),
    ]
    text = findings(networks, [], small_config(retrain={"epochs": 9}), verified=True)
    assert "itself a plain network (dw7 throughout), **wins** against the plain network" in text
    assert "The most accurate hybrid beside it, front-1 (69.57 ± 0.81 % at 0.9 ms)" in text
    assert "has -0.93 points against the pick, p = 0.057" in text
    assert "retrained for 2 epochs" in text  # as the command said, not the configuration


def test_nothing_is_claimed_without_networks() -> None:
    text = findings([], [], small_config(), verified=False)
    assert "nothing is shown about the pick" in text and "wins" not in text
    alone = findings([trained("best", "pick", PICK)], [], small_config(), verified=False)
    assert "no plain network" in alone.replace("was compared with none: ", "")


def test_inherited_accuracies_and_short_training_are_said() -> None:
    member = TrialRecord(0, ("conv3",), {"accuracy": 90.0, "accuracy_images": 400.0}, "complete")
    config = small_config(retrain={"epochs": 7}, data={"name": "digits", "limit": 300})
    text = findings([], [member], config, verified=False)
    assert "inherited weights, ± 1.5 points each" in text
    assert "for 7 epochs on at most 240 images" in text
    assert "inherited" not in findings([], [member], config, verified=True)


def run(name: str, test: float, tags: dict[str, str], started: float = 0.0, **metrics: float):
    values = {"test_accuracy": test, "validation_accuracy": test, "params": 1.0, "macs": 2.0}
    return TrackedRun(name, "retrain", {}, tags, {**values, **metrics}, started, started + 1)


def test_networks_are_put_together_from_the_runs_of_their_seeds() -> None:
    same = {"conditions": "a", "plain": "false"}
    family = {**same, "baseline": "family", "plain": "true"}
    runs = [
        run("retrain convolution-00000000 seed 0", 60.0, family, latency_ms=2.0),
        run("retrain convolution-00000000 seed 1", 61.0, family),
        run("retrain best-of-all-11111111 seed 0", 70.0, same),
        run("retrain best-of-all-11111111 seed 1", 71.0, same, latency_ms=1.0),
        run("retrain front-3-22222222 seed 0", 99.0, same, started=9.0),
        run("retrain another-33333333 seed 0", 99.0, {**family, "conditions": "b"}),
    ]
    networks = trained_networks(runs)
    assert [(n.name, n.kind, len(n.test)) for n in networks] == [
        ("best-of-all", "pick", 2),  # the most seeds, though another is later
        ("convolution", "family", 2),
        ("front-3", "pick", 1),
    ]  # what was trained otherwise is not compared
    assert networks[0].latency_ms == 1.0 and networks[1].plain and not networks[0].plain
    assert networks[1].test == {0: 60.0, 1: 61.0}


def test_members_of_an_earlier_front_are_left_out() -> None:
    def of(name: str, choices: str, tags: dict[str, str]) -> TrackedRun:
        params = {"architecture": choices, "retrain.epochs": "3"}
        return dataclasses.replace(run(f"retrain {name} seed 0", 60.0, tags), params=params)

    runs = [
        of("best-00000000", "inv3/skip", {}),
        of("front-1-11111111", "conv3/skip", {"baseline": "front"}),
        of("random-0-22222222", "skip/skip", {"baseline": "random"}),
        of("best-33333333", "conv3/conv3", {}),
    ]
    runs.append(dataclasses.replace(runs[3], name="retrain best-33333333 seed 1"))
    front = [("conv3", "conv3"), ("inv3", "inv3")]
    networks = trained_networks(runs, front)
    assert [network.name for network in networks] == ["best", "random-0"]
    assert networks[0].architecture == ("conv3", "conv3") and networks[0].epochs == 3
    assert len(trained_networks(runs)) == 4


def test_where_a_family_is_offered_and_chosen() -> None:
    stages = [
        {"width": 16, "depth": 1, "expansion": 2, "candidates": ["conv3"]},
        {"width": 16, "depth": 2, "expansion": 2, "candidates": ["conv3", "inv3"]},
        {"width": 16, "depth": 1, "expansion": 2, "candidates": ["inv3"]},
    ]
    space = small_space(stages=stages)
    assert layers_offering(space, "involution") == [1, 2]
    front = [("conv3", "inv3", "conv3", "inv3"), ("conv3", "inv3", "inv3", "inv3")]
    counts = chosen_families(space, front)
    assert [count["involution"] for count in counts] == [0, 2, 1, 2]
    trials = [
        TrialRecord(i, a, {"latency_ms": 1 + 2.0 * (a[1] == "inv3")}, "complete")
        for i, a in enumerate(front * 6)
    ]
    assert family_effects(space, trials[:9], "involution", ["latency_ms"]) == []
    trials += [
        TrialRecord(9, ("conv3", "conv3", name, "inv3"), {"latency_ms": 1.0}, "complete")
        for name in ("conv3", "inv3") * 6
    ]
    first, second = family_effects(space, trials, "involution", ["accuracy", "latency_ms"])
    assert (first.layer, second.layer) == (1, 2)
    assert first.values["latency_ms"][0] == pytest.approx(1.0, abs=0.05)
    assert second.values["latency_ms"][0] == pytest.approx(0.0, abs=0.05)
    assert first.values.keys() == {"latency_ms"}
    alike = [dataclasses.replace(trial, metrics={"latency_ms": 1.0}) for trial in trials]
    assert family_effects(space, alike, "involution", ["latency_ms"]) == []  # not: zero, surely
