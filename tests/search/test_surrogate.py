"""The surrogate against formulas written out, and the sampler that rests on it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from configs.errors import UserError
from search import run_search
from search.acquisition import expected_improvement, expected_shortfall, probability_below
from search.encoding import columns_of, one_hot
from search.front import hypervolume
from search.goal import Goal
from search.layer_sums import LayerSums
from search.layer_tables import layer_tables
from search.problem import Features, Problem
from search.scales import LOGARITHM, PLAIN, scale_of
from search.surrogate import (
    CONSTANT,
    LEAST_NOISE,
    Inputs,
    Surrogate,
    covariances,
    negative_log_likelihood,
)
from search.surrogate_sampler import SurrogateSampler
from search.trials import TrialRecord
from search_space import Architecture, ChoiceSpace, SearchSpace
from tests.helpers.spaces import small_space

NAMES = ("conv", "inv", "skip")
COST = {"conv": 3.0, "inv": 2.0, "skip": 0.5}
GAIN = {"conv": 4.0, "inv": 3.5, "skip": 0.0}
SPACE = ChoiceSpace([NAMES] * 6)
OBJECTIVES = {"accuracy": "maximize", "cost": "minimize"}


def cost(architecture: Architecture) -> float:
    return sum(COST[name] for name in architecture)


def accuracy(architecture: Architecture) -> float:
    gains = [GAIN[name] * (1 + 0.3 * layer) for layer, name in enumerate(architecture)]
    pairs = sum(a == "conv" and b == "inv" for a, b in itertools.pairwise(architecture))
    return 50 + sum(gains) + 2 * pairs


def evaluate(architecture: Architecture) -> dict[str, float]:
    return {"accuracy": accuracy(architecture), "cost": cost(architecture)}


def drawn(space: ChoiceSpace, number: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(number)]


def covariance(
    log: np.ndarray, space: ChoiceSpace, features: np.ndarray, architectures: list[Architecture]
) -> np.ndarray:
    """The kernel of the docstring, pair by pair."""
    layers = len(space.layers)
    weights, further, (signal, linear, _) = np.split(np.exp(log), [layers, -3])
    matrix = np.zeros((len(architectures),) * 2)
    for (i, a), (j, b) in itertools.product(enumerate(architectures), repeat=2):
        distance = 0.0
        for weight, x, y in zip(weights, a, b):
            distance += weight * (x != y)
            if len(further):
                distance += weight * further[0] * (space.operator_of(x) != space.operator_of(y))
        matrix[i, j] = signal * np.exp(-distance) + linear * features[i] @ features[j] + CONSTANT
    return matrix


SPACES = {"choices": SPACE, "operators": small_space()}


@pytest.mark.parametrize("kind", SPACES)
def test_likelihood_is_that_of_a_normal_distribution_and_its_gradient_is_right(kind: str) -> None:
    space, rng = SPACES[kind], np.random.default_rng(1)
    columns, architectures = columns_of(space), drawn(space, 12)
    assert columns.levels == {"choices": 1, "operators": 2}[kind]
    features, values = rng.normal(size=(12, 2)), rng.normal(size=12)
    known = rng.uniform(0, 0.1, 12)
    inputs = Inputs(one_hot(columns, architectures), features)
    log = rng.normal(size=len(space.layers) + columns.levels - 1 + 3) - 1
    loss, slope = negative_log_likelihood(log, columns, inputs, values, known)
    dense = covariance(log, space, features, architectures)
    dense += np.diag(known + np.exp(log[-1]) + LEAST_NOISE)
    assert loss == pytest.approx(-multivariate_normal.logpdf(values, cov=dense), rel=1e-9)
    numeric = approx_fprime(
        log, lambda x: negative_log_likelihood(x, columns, inputs, values, known)[0], 1e-6
    )
    np.testing.assert_allclose(slope, numeric, atol=1e-4)


def test_prediction_is_the_conditional_normal_distribution() -> None:
    known, asked = drawn(SPACE, 20), drawn(SPACE, 7, seed=1)
    values = np.array([accuracy(a) for a in known])
    noise = np.linspace(0.1, 2, 20)
    surrogate = Surrogate(SPACE).fit(known, values, noise)
    log = surrogate._log
    assert log is not None
    together = known + asked
    counts = np.array([[a.count(name) for name in sorted(NAMES)] for a in together], dtype=float)
    features = (counts - counts[:20].mean(axis=0)) / counts[:20].std(axis=0)
    dense = covariance(log, SPACE, features, together)
    scale = values.std()
    noisy = dense[:20, :20] + np.diag(noise / scale**2 + np.exp(log[-1]) + LEAST_NOISE)
    gain = dense[20:, :20] @ np.linalg.inv(noisy)
    mean, deviation = surrogate.predict(asked)
    expected = values.mean() + gain @ (values - values.mean())
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    variance = np.diag(dense[20:, 20:] - gain @ dense[:20, 20:]) * scale**2
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-5)


def test_surrogate_learns_and_knows_how_sure_it_is() -> None:
    known, asked = drawn(SPACE, 60), drawn(SPACE, 300, seed=1)
    surrogate = Surrogate(SPACE).fit(known, [accuracy(a) for a in known])
    mean, deviation = surrogate.predict(asked)
    truth = np.array([accuracy(a) for a in asked])
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    new = [a not in known for a in asked]
    error = (mean - truth)[new] / deviation[new]
    assert 0.5 < np.sqrt(np.mean(error**2)) < 1.5


def test_features_help_while_observations_are_few() -> None:
    effects = np.random.default_rng(0).normal(size=(6, 3))

    def true(architecture: Architecture) -> float:
        return sum(effects[layer, NAMES.index(name)] for layer, name in enumerate(architecture))

    def hint(architecture: Architecture) -> list[float]:
        """The truth of every other layer only."""
        return [sum(effects[i, NAMES.index(n)] for i, n in enumerate(architecture) if i % 2)]

    def right(features: Features | None, seed: int) -> float:
        known, asked = drawn(SPACE, 10, seed), drawn(SPACE, 300, seed=100)
        surrogate = Surrogate(SPACE, features=features).fit(known, [true(a) for a in known])
        return float(np.corrcoef(surrogate.predict(asked)[0], [true(a) for a in asked])[0, 1])

    gains = [right(hint, seed) - right(None, seed) for seed in range(8)]
    assert np.mean(gains) > 0.05


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [1.0, 2.0], [5.0] * 30, [0.0] * 4])
def test_few_or_equal_observations_do_no_harm(values: list[float]) -> None:
    for known in (
        drawn(SPACE, len(values)),
        [SPACE.sample(np.random.default_rng(0))] * len(values),
    ):
        mean, deviation = Surrogate(SPACE).fit(known, values).predict(drawn(SPACE, 50, seed=1))
        assert np.isfinite(mean).all() and (deviation > 0).all()
        assert min(values) - 2 <= mean.min() <= mean.max() <= max(values) + 2


def test_layer_sums_find_a_sum_and_say_their_error() -> None:
    known, asked = drawn(SPACE, 40), drawn(SPACE, 100, seed=1)
    rng = np.random.default_rng(0)
    exact = LayerSums(SPACE).fit(known, [cost(a) for a in known])
    np.testing.assert_allclose(exact.predict(asked)[0], [cost(a) for a in asked], rtol=1e-3)
    assert exact.error < 0.02
    noisy = LayerSums(SPACE).fit(known, [cost(a) + rng.normal(scale=0.5) for a in known])
    mean, deviation = noisy.predict(asked)
    assert 0.3 < noisy.error < 0.9
    truth = np.array([cost(a) for a in asked]) + rng.normal(scale=0.5, size=100)
    assert 0.6 < np.sqrt(np.mean(((mean - truth) / deviation) ** 2)) < 1.5
    single = LayerSums(SPACE).fit(known[:1], [2.0]).predict(asked)
    np.testing.assert_allclose(single[0], 2.0)


def test_layer_tables_are_exact_and_refuse_what_is_no_sum() -> None:
    table = layer_tables(SPACE, lambda a: {"cost": cost(a)})["cost"]
    for architecture in drawn(SPACE, 20):
        assert table(architecture) == pytest.approx(cost(architecture), rel=1e-12)
    assert table.smallest == ("skip",) * 6
    with pytest.raises(UserError, match=r"'accuracy': it is registered as additive, but of "):
        layer_tables(SPACE, lambda a: {"accuracy": cost(a) ** 2})


def test_expected_shortfall() -> None:
    rng = np.random.default_rng(0)
    mean, deviation, level = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 2.0]), np.array(0.3)
    draws = mean + deviation * rng.normal(size=(400_000, 3))
    sampled = np.maximum(level - draws, 0).mean(axis=0)
    np.testing.assert_allclose(expected_shortfall(mean, deviation, level), sampled, rtol=0.03)
    certain = expected_shortfall(mean, np.zeros(3), level)
    np.testing.assert_allclose(certain, [0.3, 0.0, 1.3])
    np.testing.assert_allclose(probability_below(mean, np.zeros(3), level), [1.0, 0.0, 1.0])


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("points", [0, 6])
def test_expected_improvement_is_that_of_many_draws(objectives: int, points: int) -> None:
    rng = np.random.default_rng(objectives)
    front = rng.uniform(0.2, 1.2, (points, objectives))  # some beyond the reference
    reference = np.ones(objectives)
    mean = rng.uniform(0.1, 0.9, (5, objectives))
    deviation = rng.uniform(0.05, 0.4, (5, objectives))
    deviation[0, 0] = 0.0  # known
    before = hypervolume(front, reference)
    sampled = [
        np.mean([
            hypervolume(np.vstack([front, draw]), reference) - before
            for draw in m + d * rng.normal(size=(1500, objectives))
        ])
        for m, d in zip(mean, deviation)
    ]  # fmt: skip
    tolerance = 0.2 if objectives == 3 else 0.12
    found = expected_improvement(mean, deviation, front, reference)
    np.testing.assert_allclose(found, sampled, rtol=tolerance, atol=0.004)


def test_scales_carry_errors_over() -> None:
    rng = np.random.default_rng(0)
    metrics = {"accuracy": 94.0, "accuracy_images": 1000.0}
    scale = scale_of("accuracy", [94.0])
    draws = 100 * rng.binomial(1000, 0.94, 200_000) / 1000
    expected = np.var(scale.of(draws))
    assert scale.variances("accuracy", [metrics])[0] == pytest.approx(expected, rel=0.05)
    assert scale.of(np.array(99.0)) - scale.of(np.array(98.0)) == pytest.approx(np.log(2))
    assert np.isfinite(scale.of(np.array(100.0)))
    assert scale_of("mine", [1.0, 2.0]) is LOGARITHM
    assert scale_of("mine", [1.0, -2.0]) is scale_of("mine", [1.0], [0.0]) is PLAIN


def play(sampler: SurrogateSampler, goal: Goal, trials: int, pending: int = 1) -> list[TrialRecord]:
    """A search with some workers, each of which finishes in turn."""
    records: list[TrialRecord] = []
    running: list[Architecture] = []
    while len(records) < trials:
        while len(running) < pending:
            running.append(sampler.propose())
        architecture = running.pop(0)
        metrics = evaluate(architecture)
        state, message = goal.judge(metrics)
        records.append(TrialRecord(len(records), architecture, metrics, state, message))
        sampler.learn(records[-1])
    return records


def test_nothing_is_proposed_twice_with_16_workers() -> None:
    goal = Goal(OBJECTIVES)  # type: ignore[arg-type]
    for space in (SPACE, ChoiceSpace([NAMES] * 12)):
        sampler = SurrogateSampler(Problem(space, goal, trials=60, known={"cost": cost}))
        tried = [record.architecture for record in play(sampler, goal, 60, pending=16)]
        assert len(set(tried)) == 60


def test_proposals_do_not_depend_on_timing() -> None:
    goal = Goal(OBJECTIVES)  # type: ignore[arg-type]

    def tried(seed: int, pending: int) -> list[Architecture]:
        sampler = SurrogateSampler(Problem(SPACE, goal, trials=40, seed=seed))
        return [record.architecture for record in play(sampler, goal, 30, pending)]

    assert tried(1, 3) == tried(1, 3)
    assert tried(1, 1) != tried(2, 1)


def test_what_exceeds_a_known_bound_is_not_proposed_unless_nothing_keeps_it() -> None:
    for bound, kept in ((8.0, True), (1.0, False)):
        goal = Goal(OBJECTIVES, {"cost": bound})  # type: ignore[arg-type]
        sampler = SurrogateSampler(Problem(SPACE, goal, trials=60, known={"cost": cost}))
        records = play(sampler, goal, 30)
        assert all((record.metrics["cost"] <= bound) == kept for record in records)
    assert ("skip",) * 6 in {record.architecture for record in records}  # the nearest to it


def test_a_bound_that_is_not_known_is_learnt() -> None:
    goal = Goal(OBJECTIVES, {"cost": 8.0})  # type: ignore[arg-type]
    feasible = np.mean([cost(a) <= 8.0 for a in itertools.product(NAMES, repeat=6)])
    records = play(SurrogateSampler(Problem(SPACE, goal, trials=60)), goal, 40)
    late = [record.state == "complete" for record in records[20:]]
    assert feasible < 0.25 and np.mean(late) > 0.6


@pytest.mark.parametrize("objectives", [{"accuracy": "maximize"}, OBJECTIVES])
def test_it_finds_the_best(objectives: dict[str, str]) -> None:
    """Of 729 architectures 60 are tried: the best one, or 0.97 of the whole front's volume."""
    goal = Goal(objectives)  # type: ignore[arg-type]
    everything = goal.losses([evaluate(a) for a in itertools.product(NAMES, repeat=6)])
    known = {"cost": cost} if "cost" in objectives else {}
    records = play(SurrogateSampler(Problem(SPACE, goal, trials=60, known=known)), goal, 60)
    found = goal.losses([record.metrics for record in records])
    if len(objectives) == 1:
        assert found.min() == everything.min()
    else:
        reference = everything.max(axis=0)
        assert hypervolume(found, reference) > 0.97 * hypervolume(everything, reference)


def test_three_objectives_and_failures_are_survived() -> None:
    objectives = {"accuracy": "maximize", "latency_ms": "minimize", "score": "maximize"}

    def mine(architecture: Architecture) -> dict[str, float]:
        if architecture[0] == "inv":
            raise ValueError("no inv here")
        values = evaluate(architecture)
        return {
            "accuracy": values["accuracy"],
            "latency_ms": values["cost"],
            "score": -values["cost"],
        }

    result = run_search(
        SPACE,
        mine,
        objectives,
        trials=30,
        sampler="surrogate",
        workers=0,
        progress=False,  # type: ignore[arg-type]
    )
    states = [record.state for record in result.trials]
    assert states.count("complete") >= 15


def test_known_metrics_are_checked_before_anything_is_evaluated() -> None:
    def search(**known: object) -> None:
        run_search(
            SPACE,
            evaluate,
            OBJECTIVES,
            trials=5,
            workers=0,
            known=known,
            progress=False,  # type: ignore[arg-type]
        )

    with pytest.raises(UserError, match=r"known\.cots: neither an objective nor bounded; did you"):
        search(cots=cost)
    with pytest.raises(UserError, match=r"known\.cost: of .* ZeroDivisionError"):
        search(cost=lambda architecture: 1 / 0)
    with pytest.raises(UserError, match=r"known\.cost: of .* it is nan; a finite number"):
        search(cost=lambda architecture: float("nan"))


def test_the_expensive_end_of_the_space_is_in_sight() -> None:
    """No random architecture is near it, and what lies beyond the reference would never count."""
    space, cost = ChoiceSpace([["conv", "inv", "skip"]] * 8), {"conv": 3.0, "inv": 2.0, "skip": 0.5}

    def evaluate(architecture: tuple[str, ...]) -> dict[str, float]:
        time = sum(cost[name] for name in architecture)
        return {"latency_ms": time, "quality": 50 + 1.5 * time - 0.03 * time**2}

    objectives = {"quality": "maximize", "latency_ms": "minimize"}
    result = run_search(
        space,
        evaluate,
        objectives,
        trials=40,
        workers=0,
        progress=False,  # type: ignore[arg-type]
    )
    assert ("conv",) * 8 in {record.architecture for record in result.front}


def test_what_candidates_have_in_common_makes_them_alike() -> None:
    values = {
        "a": {"operator": "convolution"},
        "a_half": {"operator": "convolution", "width": 0.5},
        "b": {"operator": "involution"},
        "b_half": {"operator": "involution", "width": 0.5},
    }
    stages = [{"width": 16, "depth": 4}]
    space = SearchSpace.from_dict(
        {"space": {"stages": stages, "candidates": values, "input_size": 8}}
    )
    surrogate = Surrogate(space).fit([("a",) * 4, ("b_half",) * 4], [0.0, 1.0])
    columns = columns_of(space)
    inputs = [Inputs(one_hot(columns, [(n,) * 4]), np.zeros((1, 1))) for n in values]
    assert surrogate._log is not None
    same, half, other, both = (
        float(covariances(surrogate._log, columns, inputs[0], i)[0, 0]) for i in inputs
    )
    assert same > half > both and same > other > both
