"""How well numbers that are known early order networks by what these reach trained alone.

Whoever chooses by a predictor wants two things of it: the right order, which is Kendall's tau, and
a good network at the top, whose lack is the regret. Both are of a sample of networks, so tau comes
with an interval; and both can be no better than a second training of the same networks is, which
is the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import comb

if TYPE_CHECKING:
    from search_space import Architecture

Numbers = Sequence[float] | np.ndarray  # one per network
Groups = Sequence[np.ndarray]  # of indices of networks

TOPS = (1, 5, 10)  # of how many best predicted networks the regret is asked
GROUPED = 13  # networks of a latency group, at least, so that its ten best are a choice
DRAWS = 1000  # of the bootstrap
LATENCY = "latency_ms"  # the score by which networks are grouped


@dataclass(frozen=True)
class Judged:
    """How well a predictor orders networks.

    Attributes:
        tau: Kendall's tau-b with the truth, from -1 to 1; NaN where all predictions are equal.
        interval: Its bootstrap 95 % interval over networks.
        regrets: By k of `TOPS`, see `regret_at`; points of accuracy.
    """

    tau: float
    interval: tuple[float, float]
    regrets: Mapping[int, float]


@dataclass(frozen=True)
class Ranked:
    """A network that was trained alone.

    Attributes:
        plain: Whether it has one candidate throughout.
        scores: What each predictor says, by name; the higher, the more accurate it should be.
        accuracies: In percent, one a seed.
    """

    architecture: Architecture
    plain: bool
    scores: Mapping[str, float]
    accuracies: tuple[float, ...]

    @property
    def truth(self) -> float:
        """The mean accuracy over the seeds."""
        return sum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class Ranking:
    """Networks that were trained alone, and how well predictors order them.

    Attributes:
        predictors: By name, those of the largest tau first. The truth is the mean over the seeds.
        ceiling: The second seed as a predictor of the first; None where there is one seed.
        groups: How many groups of nearly equal latency the regrets are a mean of.
        images: Of how many validation images each accuracy is.
        notes: What is missing, and why.
    """

    networks: tuple[Ranked, ...]
    predictors: Mapping[str, Judged]
    ceiling: Judged | None
    groups: int
    seeds: tuple[int, ...]
    images: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not a number is None."""
        return {
            "seeds": list(self.seeds),
            "images": self.images,
            "groups": self.groups,
            "notes": list(self.notes),
            "predictors": {name: _plain(judged) for name, judged in self.predictors.items()},
            "ceiling": None if self.ceiling is None else _plain(self.ceiling),
            "networks": [
                {
                    "architecture": list(network.architecture),
                    "plain": network.plain,
                    "accuracy": network.truth,
                    "accuracies": list(network.accuracies),
                    "scores": dict(network.scores),
                }
                for network in self.networks
            ],
        }


def rank_networks(
    networks: Sequence[Ranked], seeds: Sequence[int], images: int, notes: Sequence[str] = ()
) -> Ranking:
    """Judge every predictor by networks that were trained alone.

    Args:
        networks: At least two, with the same predictors, `LATENCY` among them.
        seeds: Of their trainings.
        images, notes: See `Ranking`.
    """
    accuracies = np.array([network.accuracies for network in networks]).T
    groups = latency_groups([network.scores[LATENCY] for network in networks])
    judged = {
        name: judge([network.scores[name] for network in networks], accuracies.mean(0), groups)
        for name in networks[0].scores
    }
    best_first = sorted(judged, key=lambda name: -np.nan_to_num(judged[name].tau, nan=-2.0))
    return Ranking(
        networks=tuple(networks),
        predictors={name: judged[name] for name in best_first},
        ceiling=judge(accuracies[1], accuracies[0], groups) if len(seeds) > 1 else None,
        groups=len(groups),
        seeds=tuple(seeds),
        images=images,
        notes=tuple(notes),
    )


def judge(predicted: Numbers, truth: Numbers, groups: Groups) -> Judged:
    """Return how well predictions order networks by the truth."""
    tau, interval = kendall_tau_with_interval(predicted, truth)
    return Judged(tau, interval, {k: regret_at(predicted, truth, groups, k) for k in TOPS})


def kendall_tau_with_interval(
    predicted: Numbers, truth: Numbers, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return Kendall's tau-b and its bootstrap 95 % interval (percentiles, over networks).

    A bootstrap sample holds some networks several times; pairs of copies are ties in both, which
    tau-b does not count.

    Returns:
        NaN for all three where all predictions are equal, or all truths.
    """
    orders = [
        np.sign(np.subtract.outer(values, values)) for values in map(np.asarray, (predicted, truth))
    ]
    networks = len(truth)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(networks, np.full(networks, 1 / networks), size=draws)
    (tau,) = _taus(np.ones((1, networks)), *orders)
    taus = _taus(counts, *orders)
    taus = taus[np.isfinite(taus)]
    if not len(taus):
        return float(tau), (math.nan, math.nan)
    low, high = np.percentile(taus, (2.5, 97.5))
    return float(tau), (float(low), float(high))


def regret_at(predicted: Numbers, truth: Numbers, groups: Groups, k: int) -> float:
    """Return the points by which the best of a predictor's top k is below the best there is.

    Within each group of nearly equal latency: the largest truth of the group, minus the largest
    among its k networks that are predicted to be best. Of networks that are predicted to be equal
    the expectation is taken, over a random choice among them.

    Returns:
        The mean over the groups, 0 or larger; NaN where a group has no more than k networks: to
        take them all is no choice.
    """
    if any(len(group) <= k for group in groups):
        return math.nan
    predicted, truth = np.asarray(predicted), np.asarray(truth, dtype=float)
    return float(
        np.mean([truth[g].max() - _expected_best(predicted[g], truth[g], k) for g in groups])
    )


def latency_groups(latencies: Numbers) -> Groups:
    """Return indices of networks in groups of nearly equal latency and size, the fastest first."""
    order = np.argsort(latencies, kind="stable")
    return np.array_split(order, max(len(order) // GROUPED, 1))


def _taus(counts: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return tau-b of samples that hold each network `counts` times, shape (samples,).

    Args:
        counts: Shape (samples, networks).
        predicted, truth: Signs of all differences, shape (networks, networks).
    """

    def pairs(signs: np.ndarray) -> np.ndarray:
        return ((counts @ signs) * counts).sum(axis=1)

    untied = np.sqrt(pairs(predicted**2) * pairs(truth**2))
    return np.divide(
        pairs(predicted * truth), untied, out=np.full(len(counts), np.nan), where=untied > 0
    )


def _expected_best(predicted: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Return the expected largest truth of the top k; ties at its end are broken at random."""
    last = np.sort(predicted)[-k]
    sure = truth[predicted > last]
    tied = np.sort(truth[predicted == last])[::-1]
    taken = k - len(sure)  # of the tied ones, of which the i-th best is the best taken if
    worse = np.arange(len(tied))[::-1]  # the others are among those that are worse
    chances = comb(worse, taken - 1) / comb(len(tied), taken)
    return float(chances @ np.maximum(tied, sure.max(initial=-np.inf)))


def _plain(judged: Judged) -> dict[str, Any]:
    return {
        "tau": _number(judged.tau),
        "interval": [_number(end) for end in judged.interval],
        "regrets": {str(k): _number(regret) for k, regret in judged.regrets.items()},
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
