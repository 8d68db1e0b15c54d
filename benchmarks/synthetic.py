"""A synthetic landscape whose true front is known: 46 layers with 5 candidates each.

The logit of an architecture's accuracy is a sum of one effect a layer and one a pair of neighbours;
the cost is a sum over layers of whole numbers. So dynamic programming over layers finds the best
accuracy of every cost exactly. What a search reads is the share of right answers on 1,000 images.
"""

from __future__ import annotations

import numpy as np

from search_space import Architecture, ChoiceSpace

LAYERS, CANDIDATES = 46, ("a", "b", "c", "d", "e")
IMAGES = 1000
TYPICAL, DEVIATION = 70.0, 2.0  # of the accuracies of random architectures, in percent
COSTS = (5, 100)  # smallest and largest cost of a candidate
LEVERAGE = 0.5  # what a deviation of the cost adds to a layer's effect, in deviations of the effect
INTERACTION = 0.5  # deviation of a pair's effect, over that of a layer's
DRAWS = 10_000


class Landscape:
    """One landscape, drawn from a seed.

    Attributes:
        space: Its architectures.
        largest_cost: Of all architectures.
    """

    def __init__(self, seed: int, layers: int = LAYERS) -> None:
        rng = np.random.default_rng([layers, seed])
        shape = (layers, len(CANDIDATES))
        self.space = ChoiceSpace([CANDIDATES] * layers)
        self._seed = seed
        self._cost = rng.integers(*COSTS, shape, endpoint=True)
        self._costs_by_name = [dict(zip(CANDIDATES, costs)) for costs in self._cost.tolist()]
        self.largest_cost = int(self._cost.max(axis=1).sum())
        weight = rng.lognormal(sigma=0.5, size=layers)  # some layers matter more
        cost = (self._cost - np.mean(COSTS)) / (np.ptp(COSTS) / np.sqrt(12))
        effect = weight[:, None] * (LEVERAGE * cost + rng.normal(size=shape))
        pair_weight = INTERACTION * np.sqrt(weight[:-1] * weight[1:])
        pairs = pair_weight[:, None, None] * rng.normal(size=(layers - 1, *2 * shape[1:]))
        drawn = rng.integers(len(CANDIDATES), size=(DRAWS, layers))
        sums = _sums(effect, pairs, drawn)
        typical = TYPICAL / 100
        scale = DEVIATION / 100 / (typical * (1 - typical)) / sums.std()
        # The offset of all logits goes to the first layer.
        effect[0] += np.log(typical / (1 - typical)) / scale - sums.mean()
        self._effect, self._pairs = scale * effect, scale * pairs

    def truth(self, architecture: Architecture) -> dict[str, float]:
        """Return the noiseless ``accuracy``, in percent, and the ``cost``."""
        logit = _sums(self._effect, self._pairs, self._indices(architecture)[None])[0]
        return {"accuracy": float(_accuracy(logit)), "cost": self.cost(architecture)}

    def cost(self, architecture: Architecture) -> float:
        """Return the cost alone."""
        return float(sum(costs[name] for costs, name in zip(self._costs_by_name, architecture)))

    def evaluate(self, architecture: Architecture) -> dict[str, float]:
        """Return what a search reads; the same each time."""
        truth = self.truth(architecture)
        rng = np.random.default_rng([self._seed, *self._indices(architecture)])
        right = rng.binomial(IMAGES, truth["accuracy"] / 100)
        return {**truth, "accuracy": 100 * right / IMAGES, "accuracy_images": float(IMAGES)}

    def best_by_cost(self) -> np.ndarray:
        """Return the best accuracy of every cost.

        Returns:
            Shape (largest cost + 1,), in percent; 0 where no architecture has that cost.
        """
        best = np.full((len(CANDIDATES), self.largest_cost + 1), -np.inf)
        best[range(len(CANDIDATES)), self._cost[0]] = self._effect[0]
        for layer in range(1, len(self._cost)):
            joined = (best[:, None] + self._pairs[layer - 1][:, :, None]).max(axis=0)
            best = np.full_like(best, -np.inf)
            for candidate, cost in enumerate(self._cost[layer]):
                best[candidate, cost:] = joined[candidate, : len(best[0]) - cost]
            best += self._effect[layer][:, None]
        return _accuracy(best.max(axis=0))

    def _indices(self, architecture: Architecture) -> np.ndarray:
        return np.array([CANDIDATES.index(name) for name in architecture])


def _sums(effect: np.ndarray, pairs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the sum of all effects for each row of candidates' indices."""
    layers = np.arange(len(effect))
    single = effect[layers, indices].sum(axis=1)
    return single + pairs[layers[:-1], indices[:, :-1], indices[:, 1:]].sum(axis=1)


def _accuracy(logits: np.ndarray) -> np.ndarray:
    return 100 / (1 + np.exp(-logits))
