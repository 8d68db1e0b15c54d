"""What is known of an architecture before it is trained alone: every number it can be judged by."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config, UserError
from configs.atomic import write_atomically
from configs.errors import TooNoisy
from configs.kept import numbers, read_or_none
from evaluators import shared_device
from evaluators.cascade import measure_in_order
from evaluators.metric import METRICS, describe_metric
from evaluators.subject import Subject
from experiments.console import step_progress
from experiments.data.splits import Splits
from experiments.devices import resolve_device
from experiments.evaluator import image_shape
from experiments.settings import ACCURACY, goal_of, reading_of
from experiments.studies import known_metrics, unit_of
from experiments.targets import on_this_host, time_on
from experiments.train import load_supernet
from experiments.workspace import Workspace
from search.beliefs import Modelled
from search.features import architecture_features
from search.layer_tables import layer_tables
from search.problem import Problem
from search.ranking import LATENCY
from search.trials import TrialRecord
from search_space import Architecture, SearchSpace, build_network

COUNTS = ("params", "macs")
TRAINING_FREE = ("naswot", "trainability")
INHERITED, SURROGATE, DEPTH = "inherited", "surrogate", "depth"  # the others are metrics
CROSS_ENTROPY = "cross_entropy"  # with inherited weights too
UNIT = "latency_reference_ms"
SAMPLED = 60  # random architectures whose inherited accuracies a surrogate learns from

Predictor = Callable[[Sequence[Architecture]], Sequence[float] | np.ndarray]


class Scores:
    """Metrics of networks that aren't trained alone, each read once and kept in a file.

    The networks have inherited weights where there is a supernet, and fresh ones elsewhere, which
    have no accuracy. Accuracy is that of the first half of the validation images.

    Args:
        file: Of values that depend on the same things, see `studies.values_key`.

    Attributes:
        known: What studies of the work directory know, which is not read again.
    """

    def __init__(self, config: Config, workspace: Workspace, splits: Splits, file: Path) -> None:
        self.config, self.workspace, self._file = config, workspace, file
        self.space = SearchSpace(config.space, config.plugins)
        self._supernet = load_supernet(config, workspace) if workspace.weights.exists() else None
        self._data = dataclasses.replace(splits, validation=splits.halves[0])
        self.known = known_metrics(config, workspace)
        self._kept = read_or_none(file, _scores, "scores are read again") or {}
        units = [values[UNIT] for values in self._kept.values() if UNIT in values]
        self._reference_ms = units[0] if units else unit_of(config, workspace)

    @property
    def inherits(self) -> bool:
        """Whether there is a supernet."""
        return self._supernet is not None

    def __call__(self, name: str, architecture: Architecture) -> float:
        """Return a metric of an architecture.

        Raises:
            UserError: It gives no finite number, or the device is too busy for a latency.
        """
        kept = self._kept.setdefault("/".join(architecture), {})
        if name not in kept:
            kept |= self._measure(name, architecture)
            write_atomically(self._file, json.dumps(self._kept))
        return kept[name]

    def values(self, architecture: Architecture) -> dict[str, float]:
        """Return all that was read of an architecture so far, with companions."""
        return dict(self._kept.get("/".join(architecture), {}))

    def _measure(self, name: str, architecture: Architecture) -> dict[str, float]:
        device = resolve_device(self.config.device)
        with shared_device(device):
            if self._supernet is None:
                network = build_network(self.space, architecture).to(device)
            else:
                network = self._supernet.extract(architecture)
        here = on_this_host(self.config)
        subject = Subject(
            network=network,
            image_shape=image_shape(self.config),
            load_data=lambda: self._data,
            settings=self.config.latency,
            device=device,
            time=partial(time_on, here, architecture, self._reference_ms, None),
        )
        try:
            known = self.known.get(architecture, {})
            return measure_in_order(subject, [name], lambda values: False, known)
        except TooNoisy as noise:
            raise UserError(
                f"{'/'.join(architecture)} could not be measured: {noise}. Stop what else runs on "
                "the device, or raise latency.max_spread; the same command goes on from here"
            ) from noise


def read_predictors(
    scores: Scores, networks: Sequence[Architecture], notes: list[str]
) -> dict[str, list[float]]:
    """Return what each predictor says of networks: the higher, the more accurate they should be.

    More layers, params, MACs and a longer latency are taken to mean a higher accuracy. What cannot
    be had here is left out.

    Args:
        notes: Takes what is left out, and why, and from what the surrogate learnt.
    """
    predictors, found = _predictors(scores, notes), dict[str, list[float]]()
    with step_progress("Predictors", len(predictors)) as advance:
        for count, (name, predictor) in enumerate(predictors.items(), start=1):
            try:
                found[name] = [float(value) for value in predictor(networks)]
            except UserError as error:
                if name == LATENCY:  # without it nothing is at equal latency
                    raise
                notes.append(f"{name} is left out: {error}")
            advance(count, name)
    return found


def _predictors(scores: Scores, notes: list[str]) -> dict[str, Predictor]:
    def metric(name: str) -> Predictor:
        return lambda networks: [scores(name, network) for network in networks]

    def depth(networks: Sequence[Architecture]) -> list[int]:
        skipped = scores.space.is_skip
        return [sum(not skipped(name) for name in network) for network in networks]

    metrics = (LATENCY, *COUNTS, *TRAINING_FREE)
    predictors: dict[str, Predictor] = {DEPTH: depth, **{name: metric(name) for name in metrics}}
    if not scores.inherits:
        notes.append(
            "inherited accuracy and the surrogate are left out: there is no trained supernet in "
            f"{scores.workspace.root}; `evolute train` makes one"
        )
        return predictors
    return {
        INHERITED: metric("accuracy"),
        CROSS_ENTROPY: lambda networks: [-scores(CROSS_ENTROPY, each) for each in networks],
        SURROGATE: _surrogate(scores, notes),
        **predictors,
    }


def _surrogate(scores: Scores, notes: list[str]) -> Predictor:
    """Return what a search would believe of what it reads with inherited weights."""
    name = reading_of(goal_of(scores.config)) or ACCURACY

    def predict(networks: Sequence[Architecture]) -> np.ndarray:
        config, space = scores.config, scores.space
        read = {a: dict(known) for a, known in scores.known.items() if name in known}
        origin = "trials of the study"
        if not read:
            rng, origin = np.random.default_rng((config.seed, 6)), "random architectures"
            drawn = dict.fromkeys(space.sample(rng) for _ in range(SAMPLED))
            for each in drawn:
                scores(name, each)
            read = {each: scores.values(each) for each in drawn}
        label = describe_metric(name).label
        notes.append(f"the surrogate learnt from the inherited {label} of {len(read)} {origin}")
        tables = layer_tables(space, lambda each: {count: scores(count, each) for count in COUNTS})
        free = {each: functools.partial(scores, each) for each in config.search.features}
        features = architecture_features(space, tables, free, seed=config.seed)
        problem = Problem(space, goal_of(config), len(read), config.seed, features=features)
        belief = Modelled(name, problem)
        records = [TrialRecord(n, a, m, "complete") for n, (a, m) in enumerate(read.items())]
        belief.learn(records, [], fit=True)
        mean, _ = belief.predict(networks)
        return mean if METRICS[name].direction == "maximize" else -mean

    return predict


def _scores(values: Any) -> dict[str, dict[str, float]]:
    return {architecture: numbers(scores) for architecture, scores in values.items()}
