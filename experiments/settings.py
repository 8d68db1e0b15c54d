"""A configuration whose names exist: its file, checked against everything that is registered."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from configs import Config, UserError
from configs import load_config as read_config
from configs.loading import find_config, place_of
from configs.registry import load_plugins
from evaluators.metrics import METRICS
from evaluators.runtimes import RUNTIMES
from experiments.data.splits import find_source
from search.goal import Goal
from search.samplers import SAMPLERS
from search_space import SearchSpace

ACCURACY = "accuracy"  # what networks that are trained alone are compared by


def load_config(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, run its plugins, and look up every name in it.

    Metrics, sampler, runtime, data source, blocks and operators are registered by ours or by the
    user's files, which `configs.load_config` alone does not run.

    Args:
        name_or_path: A preset's name or a YAML file.
        overrides: ``key.path=value`` strings.

    Raises:
        UserError: Names file, line, key, value and what would be right.
    """
    config = read_config(name_or_path, overrides)
    path, search = find_config(name_or_path), config.search
    load_plugins(config.plugins)
    names: list[tuple[str, str, Mapping[str, object]]] = [
        ("latency.runtime", config.latency.runtime, RUNTIMES),
        ("search.sampler", search.sampler, SAMPLERS),
        *((f"search.objectives.{name}", name, METRICS) for name in search.objectives),
        *((f"search.constraints.{name}", name, METRICS) for name in search.constraints),
        *(("search.features", name, METRICS) for name in search.features),
    ]
    for key, name, registry in names:
        with _placed(path, key, f"{key}: "):
            registry[name]
    with _placed(path, "search"):
        goal_of(config)
    with _placed(path, "data.name"):
        find_source(config.data.name)
    with _placed(path, "space"):
        SearchSpace(config.space, config.plugins)
    return config


def goal_of(config: Config) -> Goal:
    """Return the objectives and bounds of a configuration.

    Raises:
        UserError: A metric is wanted the wrong way round.
    """
    try:
        return Goal(config.search.objectives, config.search.constraints)
    except UserError as error:
        raise UserError(f"search.{error}") from None


def reading_of(goal: Goal) -> str | None:
    """Return the objective by which a search reads the accuracy of networks; None without one."""
    return next((name for name in goal.objectives if meant_by(name) == ACCURACY), None)


def verified_goal(goal: Goal) -> Goal:
    """Return the goal of networks that are trained alone: what stands for another is that other.

    A bound on the former says nothing of them.
    """
    objectives = {meant_by(name): METRICS[meant_by(name)].direction for name in goal.objectives}
    bounds = {name: bound for name, bound in goal.bounds.items() if meant_by(name) == name}
    return Goal(objectives, bounds)


def meant_by(name: str) -> str:
    """Return the metric that an objective stands for, or itself."""
    return METRICS[name].stands_for or name


@contextlib.contextmanager
def _placed(path: Path, key: str, prefix: str = "") -> Iterator[None]:
    """Put the file and the line in front of what is refused: of a key, or of one below it.

    The latter where the message begins with it.
    """
    try:
        yield
    except UserError as error:
        named = str(error).partition(":")[0]
        where = place_of(path, (named if named.startswith(f"{key}.") else key).split("."))
        raise UserError(f"{where}{prefix}{error}") from None
