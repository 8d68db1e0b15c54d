"""Trains a sample of architectures alone, and says how far each way to rank them can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs import Config, UserError
from configs.atomic import write_atomically
from configs.kept import read_json
from experiments.blueprints import is_plain
from experiments.console import as_duration, console, step_progress
from experiments.data.splits import Splits, load_splits
from experiments.devices import hold_in_step, resolve_device, workers_at_a_time
from experiments.ownership import owned
from experiments.predictors import COUNTS, Scores, read_predictors
from experiments.reporting.rank import print_ranking, write_ranking
from experiments.retraining import check_recipe
from experiments.stand_alone import StandAlone, conditions, train_all
from experiments.studies import values_key
from experiments.workspace import Workspace, open_tracker, open_workspace
from search.layer_sums import LayerSums
from search.pool import all_of
from search.ranking import LATENCY, Ranked, Ranking, rank_networks
from search.space_profile import uniform_architectures
from search.strata import draw_stratified
from search_space import Architecture, SearchSpace

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

LEAST = 4  # networks that can be ordered at all
TIMED = 20  # architectures, at least, from whose latencies those of others are predicted
DRAWN_BY = ("fingerprint", "seed")  # what decides, with the space, which networks are drawn
LISTABLE = 20_000  # larger spaces are taken to have as many networks as architectures

Trained = Mapping[Architecture, Mapping[str, float]]


def rank_from_files(config: Config, out: Path | None, networks: int, seeds: int) -> Workspace:
    """Rank in a work directory, tracked; return it. The configuration of a search stays as it is.

    Raises:
        UserError: As for `rank_predictors`.
    """
    workspace = open_workspace(config, out)
    with owned(workspace):
        prepared = prepare_ranking(config, workspace, networks, seeds)  # refuses before it writes
        with open_tracker(config, workspace) as tracker:
            prepared.run(tracker)
    return workspace


def rank_predictors(
    config: Config,
    workspace: Workspace,
    *,
    networks: int = 40,
    seeds: int = 2,
    tracker: Tracker | None = None,
) -> Ranking:
    """Train architectures alone, and compare their order with that of everything known before.

    The architectures are spread over latency, a share of them plain networks. Each is trained by
    the `retrain` recipe from fresh weights, once for each of the seeds that follow `seed`, on the
    workers of the search. The truth is the mean accuracy on the second half of the validation
    images, from which no predictor is read; the test split is not used. What is finished is kept in
    ``rank/``: the same call goes on from there. Writes ``report/rank.json``, ``rank.html`` and
    ``rank.png``, and prints the table.

    Args:
        networks: How many, at least `LEAST`.
        seeds: Trainings of each. With two, the second one as a predictor of the first is the
            ceiling.

    Raises:
        UserError: The space has fewer networks, the recipe or the data can't be used, a training
            fails, or the device is too busy for latencies.
        KeyboardInterrupt: Asked to stop; the same call goes on.
    """
    return prepare_ranking(config, workspace, networks, seeds).run(tracker)


def prepare_ranking(
    config: Config, workspace: Workspace, networks: int, seeds: int
) -> PreparedRanking:
    """Return a ranking that nothing was found to stand in the way of; no result is written.

    Raises:
        UserError: As for `rank_predictors`.
    """
    space = SearchSpace(config.space, config.plugins)
    different = len(all_of(space)) if space.size <= LISTABLE else space.size
    if not LEAST <= networks <= different:
        raise UserError(
            f"--networks: {networks} is not possible; choose from {LEAST} to {different}, which is "
            "how many different networks the space has"
        )
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is not possible; at least one is needed")
    if config.retrain.inherit:
        raise UserError(
            "retrain.inherit: true is not possible; what is ranked is trained from fresh weights: "
            "--set retrain.inherit=false"
        )
    check_recipe(config)
    device = resolve_device(config.device)
    with hold_in_step(device):
        splits = load_splits(  # keeps the statistics, on which all trainings depend
            config,
            device,
            batch_size=config.retrain.batch_size,
            statistics=workspace.statistics,
            split=workspace.split,
        )
    return PreparedRanking(config, workspace, networks, seeds, splits)


@dataclass(frozen=True)
class PreparedRanking:
    """A ranking that may begin or go on; see `prepare_ranking`."""

    config: Config
    workspace: Workspace
    networks: int
    seeds: int
    splits: Splits

    def run(self, tracker: Tracker | None = None) -> Ranking:
        """Train, judge, report and track; see `rank_predictors`."""
        config, workspace = self.config, self.workspace
        folder, notes = workspace.directory / "rank", list[str]()
        file = folder / f"scores-{values_key(config, workspace)}.json"
        scores = Scores(config, workspace, self.splits, file)
        key = values_key(config, workspace, DRAWN_BY)
        chosen = _drawn(scores, self.networks, folder / f"{self.networks}-networks-{key}.json")
        predicted = read_predictors(scores, chosen, notes)
        trainings = {
            seed: StandAlone(
                config, workspace, folder / conditions(config, workspace, seed=seed), seed=seed
            )
            for seed in range(config.seed, config.seed + self.seeds)
        }
        trained = _train(trainings, chosen, tracker)
        ranked = [
            Ranked(
                architecture=architecture,
                plain=is_plain(scores.space, architecture),
                scores={name: values[index] for name, values in predicted.items()},
                accuracies=tuple(of[architecture]["accuracy"] for of in trained.values()),
            )
            for index, architecture in enumerate(chosen)
        ]
        images = round(trained[config.seed][chosen[0]]["accuracy_images"])
        ranking = rank_networks(ranked, list(trainings), images, notes)
        files = write_ranking(ranking, scores.space, workspace.report, config.name)
        print_ranking(ranking)
        if tracker is not None:
            _track(tracker, ranking, files, trainings[config.seed])
        return ranking


def draw_networks(scores: Scores, count: int) -> list[Architecture]:
    """Return plain networks, half of them at most, and others that are spread over latency.

    Latencies are predicted as sums over the layers, from those that a study knows, or else from
    some random architectures that are measured.
    """
    space, rng = scores.space, np.random.default_rng((scores.config.seed, 7))
    plain = uniform_architectures(space)[: count // 2]
    some = [each for each, known in scores.known.items() if LATENCY in known]
    if len(some) < TIMED:
        some = list(dict.fromkeys([*plain, *(space.sample(rng) for _ in range(TIMED))]))
    latencies = []
    with step_progress("Latencies", len(some)) as advance:
        for architecture in some:
            latencies.append(scores(LATENCY, architecture))
            advance(len(latencies), "")
    sums = LayerSums(space).fit(some, latencies)
    others = draw_stratified(
        space, lambda pool: sums.predict(pool)[0], count - len(plain), plain, rng
    )
    return [*plain, *others]


def _drawn(scores: Scores, count: int, file: Path) -> list[Architecture]:
    """Return the networks that were drawn the first time: other latencies would give others."""
    if not file.exists():
        write_atomically(file, json.dumps(draw_networks(scores, count)))
    way_out = "it says which networks were drawn; move it away to draw again"
    return read_json(file, lambda drawn: [tuple(map(str, each)) for each in drawn], way_out)


def _train(
    trainings: Mapping[int, StandAlone], chosen: Sequence[Architecture], tracker: Tracker | None
) -> dict[int, Trained]:
    """Train all networks with all seeds, and show how long it takes."""
    total = len(trainings) * len(chosen)
    missing = {
        (seed, architecture)
        for seed, training in trainings.items()
        for architecture in chosen
        if not training.finished(architecture)
    }
    console.print(f"{total} trainings, {total - len(missing)} of them done.", highlight=False)
    seconds: list[float] = []  # of each training that is done

    def done(seed: int, architecture: Architecture, metrics: Mapping[str, float]) -> None:
        is_new = (seed, architecture) in missing
        missing.discard((seed, architecture))
        seconds.append(metrics["seconds"])
        if len(seconds) == 1 and missing:
            at_a_time = max(min(workers_at_a_time(trainings[seed].config), len(missing)), 1)
            left = as_duration(len(missing) * seconds[0] / at_a_time)
            console.print(f"{len(missing)} trainings, about {left}.", highlight=False)
        if is_new:
            count = total - len(missing)
            advance(count, "")
            if tracker is not None:
                tracker.metrics({"rank_trained": count}, step=count)

    found: dict[int, Trained] = {}
    with step_progress("Trained alone", total, total - len(missing)) as advance:
        for seed, training in trainings.items():
            found[seed] = train_all(training, chosen, partial(done, seed))
    return found


def _track(tracker: Tracker, ranking: Ranking, files: Sequence[Path], training: StandAlone) -> None:
    """Log each network as a run of its own, and the judgements and the files with the parent.

    ``score.NAME`` is what a predictor says, the higher the better: minus the cross entropy, say.
    """
    for network in ranking.networks:
        architecture = network.architecture
        name = f"rank-{training.folder_of(architecture).name}"
        params = {"architecture": "/".join(architecture), "plain": network.plain}
        took = training(architecture)["seconds"]  # read from its folder
        with tracker.child(name, "rank", params=params, seconds=took) as run:
            each = {f"accuracy.seed_{s}": a for s, a in zip(ranking.seeds, network.accuracies)}
            costs = {k: v for k, v in network.scores.items() if k in (*COUNTS, LATENCY)}
            scores = {f"score.{k}": v for k, v in network.scores.items() if k not in costs}
            run.metrics({"accuracy": network.truth, **each, **costs, **scores})
    judged = dict(ranking.predictors)
    if ranking.ceiling is not None:
        judged["ceiling"] = ranking.ceiling
    values: dict[str, float] = {}
    for name, how in judged.items():
        values[f"rank_tau.{name}"] = how.tau
        values |= {f"rank_regret_{k}.{name}": regret for k, regret in how.regrets.items()}
    tracker.metrics({name: value for name, value in values.items() if np.isfinite(value)})
    for file in files:
        tracker.artifact(file, "rank")
