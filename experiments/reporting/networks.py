"""The networks that were retrained, as MLflow has them, and how the pick compares."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from experiments.matching import TOLERANCE
from experiments.reporting.baselines import Difference, Trained, paired_difference
from experiments.tracking.record import TrackedRun
from search_space import Architecture

SIGNIFICANT = 0.05  # the p value below which a difference counts as one


@dataclass(frozen=True)
class Contest:
    """The pick against the most accurate plain network of no higher latency.

    Attributes:
        plain: Chosen by validation accuracy; None where none was trained.
        rivals: From how many plain networks it was chosen.
    """

    pick: Trained
    plain: Trained | None
    difference: Difference
    rivals: int

    @property
    def outcome(self) -> str:
        """Return ``wins``, ``loses``, ``equals`` or, where there is no test, ``is not decided``."""
        gap = self.difference
        if gap.points is None or (gap.p is None and (gap.seeds < 2 or gap.points != 0)):
            return "is not decided"
        if gap.p is None or gap.p >= SIGNIFICANT:
            return "equals"
        return "wins" if gap.points > 0 else "loses"


def trained_networks(
    runs: Sequence[TrackedRun], front: Collection[Architecture] = ()
) -> list[Trained]:
    """Return the networks behind the runs of their seeds; the pick first, comparable ones alone.

    The pick is the network that is no baseline and has the most seeds, the last of several.

    Args:
        front: That of the search as it is now; picks and members of an earlier one are left out.
    """
    groups: dict[str, list[TrackedRun]] = {}
    for run in runs:
        named = re.fullmatch(r"retrain (.+) seed (\d+)", run.name)
        if named is not None and "test_accuracy" in run.metrics:
            groups.setdefault(named[1], []).append(run)
    own = [seeds for seeds in groups.values() if "baseline" not in seeds[0].tags]
    if not own:
        return []
    pick = max(own, key=lambda seeds: (len(seeds), seeds[-1].started))
    alike = [
        seeds
        for seeds in groups.values()
        if seeds is not pick
        and seeds[0].tags.get("conditions", "") == pick[0].tags.get("conditions", "")
    ]
    networks = [_trained(seeds) for seeds in (pick, *alike)]
    return [n for n in networks if n is networks[0] or not _left_the_front(n, front)]


def _left_the_front(network: Trained, front: Collection[Architecture]) -> bool:
    own = network.kind in ("pick", "front") and bool(network.architecture)
    return bool(front) and own and network.architecture not in front


def contest(networks: Sequence[Trained]) -> Contest:
    """Compare the first network with the plain ones that are as fast as it, or faster."""
    pick = networks[0]
    rivals = [
        network
        for network in networks[1:]
        if network.plain
        and network.latency_ms is not None
        and pick.latency_ms is not None
        and network.latency_ms <= pick.latency_ms * (1 + TOLERANCE)
    ]
    if not rivals:
        return Contest(pick, None, Difference(None, None, 0), 0)
    best = max(rivals, key=lambda network: network.validated)
    return Contest(pick, best, paired_difference(pick, best), len(rivals))


def _trained(seeds: Sequence[TrackedRun]) -> Trained:
    first = seeds[0]
    by_seed = {int(run.name.rpartition(" ")[2]): run.metrics for run in seeds}
    latencies = [run.metrics["latency_ms"] for run in seeds if "latency_ms" in run.metrics]
    folder = first.name.removeprefix("retrain ").rpartition(" seed ")[0]
    return Trained(
        name=folder.rpartition("-")[0],
        kind=first.tags.get("baseline", "pick"),
        plain=first.tags.get("plain") == "true",
        test={seed: metrics["test_accuracy"] for seed, metrics in by_seed.items()},
        validation={seed: m["validation_accuracy"] for seed, m in by_seed.items()},
        latency_ms=latencies[-1] if latencies else None,
        params=first.metrics["params"],
        macs=first.metrics["macs"],
        architecture=tuple(filter(None, first.params.get("architecture", "").split("/"))),
        epochs=int(epochs) if (epochs := first.params.get("retrain.epochs")) else None,
    )
