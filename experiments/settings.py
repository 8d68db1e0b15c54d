"""A configuration whose names exist: its file, checked against everything that is registered."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from configs import Config, UserError
from configs import load_config as read_config
from configs.loading import find_config, place_of
from configs.registry import load_plugins
from configs.secrets import has_secret
from configs.suggestions import did_you_mean
from evaluators.metric import AT, METRICS
from evaluators.runtimes import RUNTIMES
from experiments.data.splits import find_source
from experiments.tracking.credentials import STORAGE, complete
from experiments.tracking.store import check_uri
from search.goal import Goal
from search.samplers import SAMPLERS
from search_space import SearchSpace

logger = logging.getLogger("evolute.settings")

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
    _warn_of_readers(path, config)
    with _placed(path, "tracking.uri"):
        uri = complete(config.tracking.uri)
        if uri:
            check_uri(uri)
    with _placed(path, "search.storage"):
        storage = complete(search.storage, STORAGE)
    names: list[tuple[str, str, Mapping[str, object]]] = [
        ("latency.runtime", config.latency.runtime, RUNTIMES),
        *((f"targets.{name}.runtime", t.runtime, RUNTIMES) for name, t in config.targets.items()),
        ("search.sampler", search.sampler, SAMPLERS),
        *((f"search.objectives.{name}", name, METRICS) for name in search.objectives),
        *((f"search.constraints.{name}", name, METRICS) for name in search.constraints),
        *(("search.features", name, METRICS) for name in search.features),
    ]
    for key, name, registry in names:
        with _placed(path, key, f"{key}: "):
            registry[name]
            _check_target(name, config)
    with _placed(path, "search"):
        goal_of(config)
    with _placed(path, "data.name"):
        find_source(config.data.name)
    with _placed(path, "space"):
        SearchSpace(config.space, config.plugins)
    return dataclasses.replace(
        config,
        tracking=dataclasses.replace(config.tracking, uri=uri),
        search=dataclasses.replace(search, storage=storage),
    )


def _warn_of_readers(path: Path, config: Config) -> None:
    """Say so where others of this machine can read a password in a configuration file."""
    text = path.read_text(encoding="utf-8")
    uris = [uri for uri in (config.tracking.uri, config.search.storage) if "://" in uri]
    if any(uri in text for uri in uris if has_secret(uri)) and path.stat().st_mode & 0o044:
        logger.warning(
            "%s holds a password or a token, and others can read it: chmod 600 %s, or give it in "
            "the environment (docs/secrets.md)",
            path,
            path,
        )


def _check_target(name: str, config: Config) -> None:
    """Refuse a metric on a target device that the configuration does not have."""
    _, _, target = name.partition(AT)
    if target and target not in config.targets:
        hint = did_you_mean(target, sorted(config.targets), "there are none yet.")
        raise UserError(f"{name!r}: no target {target!r} is in the section `targets`; {hint}")


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
