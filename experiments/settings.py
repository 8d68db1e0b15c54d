"""A configuration whose names exist: its file, checked against everything that is registered."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from configs import Config, UserError
from configs import load_config as read_config
from configs.loading import find_config, place_of
from configs.registry import load_plugins
from evaluators.metrics import METRICS
from evaluators.runtimes import RUNTIMES
from experiments.data.sources import check_source
from search.goal import Goal
from search.samplers import SAMPLERS
from search_space import SearchSpace


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
    path = find_config(name_or_path)

    def check(keys: Sequence[str], look_up: Callable[[], object]) -> None:
        try:
            look_up()
        except UserError as error:
            raise UserError(f"{place_of(path, keys)}{error}") from None

    load_plugins(config.plugins)
    check(("space",), lambda: SearchSpace(config.space, config.plugins))
    check(("data", "name"), lambda: check_source(config.data.name))
    check(
        ("latency", "runtime"), lambda: _named("latency.runtime", config.latency.runtime, RUNTIMES)
    )
    search = config.search
    check(("search", "sampler"), lambda: _named("search.sampler", search.sampler, SAMPLERS))
    for section in ("objectives", "constraints"):
        for name in getattr(search, section):
            keys = ("search", section, name)
            check(keys, lambda name=name, keys=keys: _named(".".join(keys), name, METRICS))
    check(("search",), lambda: goal_of(config))
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


def _named(key: str, name: str, registry) -> None:  # type: ignore[no-untyped-def]
    try:
        registry[name]
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
