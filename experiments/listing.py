"""``evolute list``: everything that a configuration can name, with a line about each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from configs import find_config, preset_names
from configs.registry import import_all
from evaluators.metric import METRICS, Metric
from evaluators.runtime import Runtime
from evaluators.runtimes import RUNTIMES
from experiments.data import sources
from experiments.data.registry import SOURCES
from search.samplers import SAMPLERS
from search_space.blocks import BLOCKS
from search_space.registry import get_operator, operator_names

if TYPE_CHECKING:
    from rich.table import Table


def listing() -> Iterator[Table]:
    """Yield a table for each kind of name, plugins' included as far as they were run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    import_all(sources)
    for kind, names in _kinds().items():
        table = Table(title=kind, title_justify="left", box=SIMPLE_HEAD, show_header=False)
        table.add_column(no_wrap=True, min_width=22)
        table.add_column()
        for name, about in names.items():
            table.add_row(name, about)
        yield table


def _kinds() -> dict[str, Mapping[str, str]]:
    return {
        "Presets (evolute run NAME)": {name: _first_comment(name) for name in preset_names()},
        "Operators (space.candidates.*.operator)": {
            name: _first_line(get_operator(name)) for name in operator_names()
        },
        "Blocks (space.stages.*.block)": {name: _first_line(BLOCKS[name]) for name in BLOCKS},
        "Metrics (search.objectives, search.constraints)": {
            name: _metric(metric) for name, metric in METRICS.items()
        },
        "Samplers (search.sampler)": {name: _first_line(SAMPLERS[name]) for name in SAMPLERS},
        "Runtimes (latency.runtime)": {name: _runtime(r) for name, r in RUNTIMES.items()},
        "Data sources (data.name)": {name: _first_line(SOURCES[name]) for name in SOURCES},
    }


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _first_comment(preset: str) -> str:
    """Return the first sentence of a preset's comment."""
    lines = find_config(preset).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines[:4] if line.startswith("#"))
    return re.split(r"[.:] | \(", comment)[0]


def _metric(metric: Metric) -> str:
    best = "higher" if metric.direction == "maximize" else "lower"
    return f"{metric.title}: {best} is better"


def _runtime(runtime: Runtime) -> str:
    from configs import UserError

    try:
        return f"version {runtime.version()}"
    except UserError as missing:
        return f"not installed: {missing}"
