"""What a search holds most promising, trained alone before anything is reported as best.

Inherited accuracies order architectures only roughly. So the architectures that a surrogate of them
expects to be best at their cost, and every plain network, are trained alone in rungs of ever more
epochs (`search.halving`). A rung selects by the first half of the validation images, as the search
did; the accuracy that is reported is that of the second half, by which nothing was selected.

The plan depends on the configuration and the trials alone, never on the clock or on what has been
trained so far: a run that was interrupted makes the same plan, and finds its trainings in
``verified/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from configs import Config, UserError
from experiments.classification import training_paths
from experiments.console import as_duration, console, step_progress
from experiments.reporting.verified import VerifiedNetwork
from experiments.stand_alone import StandAlone, conditions, same_workers, train_all
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace
from search.halving import Entrant, Halving, plan_halving, smallest_halving
from search.trials import TrialRecord
from search_space import Architecture, SearchSpace

STEPS = 100  # of the supernet's training, whose paths are counted

Scores = Mapping[str, float]


class NothingToVerify(Exception):
    """Why no network is trained alone."""


@dataclass(frozen=True)
class Verification:
    """Which networks are to be trained alone, and how; see `plan_verification`.

    Attributes:
        records: What the search knows of all candidates, by their architecture.
        share: The most that it costs, as a share of the supernet's training.
        folder: Where the trainings are.
    """

    config: Config
    workspace: Workspace
    halving: Halving
    records: Mapping[Architecture, TrialRecord]
    share: float
    folder: Path

    def __str__(self) -> str:
        """Say what will be done, and how long it will take where that is known."""
        halving = self.halving
        last = halving.size(halving.rungs - 1)
        seconds = TrainingHistory(self.workspace.history).seconds
        time = "" if seconds is None else f", about {as_duration(self.share * seconds)}"
        epochs = ", ".join(map(str, halving.epochs))
        return (
            f"Verification: {len(halving.entrants)} networks are trained alone, {last} of them to "
            f"the end, in rungs of {epochs} epochs: at most {self.share:.2f} of the supernet's "
            f"training{time}"
        )

    def train(self, on_trained: Callable[[Entrant, int, Scores], None]) -> list[VerifiedNetwork]:
        """Train all rungs, or go on; return all networks, those that came farthest first.

        A network whose training fails is dropped, with a message.

        Args:
            on_trained: Called in this process with the rung and the metrics after each training
                that was not finished before.

        Raises:
            UserError: All trainings of a rung fail.
            KeyboardInterrupt: Asked to stop; the same call goes on.
        """
        halving, reached = self.halving, dict[Architecture, list[Scores]]()
        going = list(halving.entrants)
        progress = step_progress("Verification", halving.trainings())
        with contextlib.ExitStack() as workers, progress as advance:
            trained_so_far = itertools.count(1)
            for rung in range(halving.rungs):
                training = self.training(rung)
                old = set(filter(training.finished, going))
                if len(old) < len(going):  # the first opens Ray, if need be, and others join it
                    workers.enter_context(same_workers(self.config))

                def done(architecture: Architecture, metrics: Scores, rung=rung, old=old) -> None:
                    reached.setdefault(architecture, []).append(metrics)
                    advance(next(trained_so_far), f"rung {rung + 1} of {halving.rungs}")
                    if architecture not in old:
                        on_trained(halving.entrants[architecture], rung, metrics)

                trained = train_all(training, going, done, _say_failure)
                if not trained:
                    raise UserError(f"verify: all {len(going)} trainings of rung {rung} fail")
                scores = {a: -metrics["selection_cross_entropy"] for a, metrics in trained.items()}
                if rung + 1 < halving.rungs:
                    going = halving.survivors(rung, scores)
        networks = [
            VerifiedNetwork(
                self.records[architecture],
                metrics[-1],
                plain=halving.entrants[architecture].plain,
                rung=len(metrics) - 1,
                finished=len(metrics) == halving.rungs,
            )
            for architecture, metrics in reached.items()
        ]
        return sorted(networks, key=lambda n: (-n.rung, -n.trained["accuracy"]))

    def training(self, rung: int) -> StandAlone:
        """Return what trains the networks of a rung."""
        return StandAlone(
            _recipe_of(self.config, rung),
            self.workspace,
            self.folder / f"rung-{rung}",
            seed=self.config.seed + rung,  # another order of the images
            start=self.folder / f"rung-{rung - 1}" if rung else self.config.verify.start,
        )


def plan_verification(
    config: Config,
    workspace: Workspace,
    candidates: Mapping[Entrant, TrialRecord],
    *,
    macs: Callable[[Architecture], float],
    supernet: str,
) -> Verification:
    """Plan who of the candidates is trained alone, and how long, within `verify.budget`.

    Args:
        candidates: As from `promising`.
        macs: Multiply-accumulates of any architecture.
        supernet: A hash of its weights.

    Raises:
        NothingToVerify: The budget is too small.
    """
    whole = supernet_price(config, macs)
    budget, epochs = config.verify.budget * whole, config.retrain.epochs
    halving = plan_halving(list(candidates), budget, epochs)
    if halving is None:
        least = smallest_halving(list(candidates)).price_of_all() / whole
        raise NothingToVerify(
            f"an epoch of the plain networks and the most promising others costs {least:.2g} of "
            f"the supernet's training, and verify.budget is {config.verify.budget:g}; raise it"
        )
    start = config.verify.start
    alike = conditions(
        _recipe_of(config, 0),
        workspace,
        seed=config.seed,
        start=start,
        learning_rate=config.verify.learning_rate,
        supernet=supernet if start == "inherited" else None,
    )
    return Verification(
        config,
        workspace,
        halving,
        {entrant.architecture: record for entrant, record in candidates.items()},
        halving.price_of_all() / whole,
        workspace.verified / alike,
    )


def supernet_price(config: Config, macs: Callable[[Architecture], float]) -> float:
    """Return what the supernet's training costs, in MACs of one image, times epochs."""
    paths = training_paths(config.train, SearchSpace(config.space, config.plugins), config.seed)
    steps = [paths(step) for step in range(STEPS)]
    return config.train.epochs * statistics.mean(
        sum(macs(path.architecture) for path in step) for step in steps
    )


def _say_failure(architecture: Architecture, error: UserError) -> None:
    console.print(f"Dropped: {error}", highlight=False)


def _recipe_of(config: Config, rung: int) -> Config:
    """Return the configuration with the recipe of a rung: gentle with weights that are trained."""
    trained = rung > 0 or config.verify.start == "inherited"
    share = config.verify.learning_rate if trained else 1.0
    recipe = dataclasses.replace(
        config.retrain, epochs=2**rung, learning_rate=config.retrain.learning_rate * share
    )
    return dataclasses.replace(config, retrain=recipe)
