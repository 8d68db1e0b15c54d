"""How far predictors can be trusted: a table for a terminal, a picture, a page and a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.atomic import write_atomically
from evaluators.metric import METRICS, describe_metric, short_number
from experiments.console import console
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.figures import new_figure, save_figure
from experiments.reporting.orders import interval_text
from experiments.reporting.pages import ranking_html
from search.ranking import TOPS, Judged, Ranking
from search_space import ChoiceSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

LABELS = {
    "inherited": "inherited accuracy",
    "cross_entropy": "inherited cross entropy",
    "surrogate": "surrogate",
    "depth": "layers",
}
UNITS = {"inherited": "%", "cross_entropy": "minus, nats", "surrogate": "", "depth": "not skipped"}
CEILING = "second seed (ceiling)"
PLAIN, OTHER = "#d55e00", "#0072b2"
COLUMNS = 3  # panels beside each other


def label_of(predictor: str) -> str:
    """Return a predictor as people read it, without unit."""
    return LABELS.get(predictor) or describe_metric(predictor).label


def ranking_table(ranking: Ranking) -> Table:
    """Return one line for the ceiling and one for each predictor; it fits 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("predictor", no_wrap=True)
    for column in ("tau", "95 % interval", *(f"top {k}" for k in TOPS)):
        table.add_column(column, justify="right", no_wrap=True)
    if ranking.ceiling is not None:
        table.add_row(CEILING, *_cells(ranking.ceiling), end_section=True)
    for name, judged in ranking.predictors.items():
        table.add_row(label_of(name), *_cells(judged))
    return table


def print_ranking(ranking: Ranking) -> None:
    """Print the table, what it is of, and how to read it."""
    for line in (summary(ranking), *ranking.notes):
        console.print(line[0].upper() + line[1:] + ".", highlight=False)
    console.print(ranking_table(ranking))
    console.print(explanation(ranking), highlight=False)


def summary(ranking: Ranking) -> str:
    """Return in words what the truth is."""
    plain = sum(network.plain for network in ranking.networks)
    seeds = "1 seed" if len(ranking.seeds) == 1 else f"the mean of {len(ranking.seeds)} seeds"
    return (
        f"{len(ranking.networks)} networks, {plain} of them plain, trained alone; truth: accuracy "
        f"on {ranking.images} validation images that no predictor has read, {seeds}"
    )


def explanation(ranking: Ranking) -> str:
    """Return in words what the columns are."""
    groups = "all networks" if ranking.groups == 1 else f"{ranking.groups} groups of equal latency"
    return (
        "tau: Kendall's, 1 for the same order, 0 for no relation. top k: regret, the points by "
        f"which the best of its k best is below the best of all; {groups}."
    )


def write_ranking(ranking: Ranking, space: ChoiceSpace, directory: Path, name: str) -> list[Path]:
    """Write ``rank.json``, ``rank.png`` and ``rank.html``, and return them."""
    values = ranking.to_dict()
    write_atomically(directory / "rank.json", json.dumps(values, indent=1))
    picture = plot_ranking(ranking, directory / "rank.png")
    data = {
        **values,
        "summary": summary(ranking),
        "explanation": explanation(ranking),
        "labels": {predictor: label_of(predictor) for predictor in ranking.predictors},
        "ceiling_label": CEILING,
        "tops": TOPS,
        "colours": {name: [fill, ink_on(fill)] for name, fill in colours_of(space).items()},
        "stages": [layer.stage for layer in space.layers],
    }
    page = ranking_html(data, picture, name, directory / "rank.html")
    return [directory / "rank.json", picture, page]


def plot_ranking(ranking: Ranking, path: Path) -> Path:
    """Draw the truth over each predictor, the best first, and at last the second seed.

    Lines join the seeds of a network; plain networks have a colour of their own.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    panels = len(ranking.predictors) + (ranking.ceiling is not None)
    columns = min(panels, COLUMNS)
    rows = math.ceil(panels / columns)
    figure = new_figure(3.3 * columns, 2.9 * rows)
    every = figure.subplots(rows, columns, squeeze=False).flatten()
    accuracies = np.array([network.accuracies for network in ranking.networks])
    plain = np.array([network.plain for network in ranking.networks])
    truth = accuracies.mean(axis=1)
    for axes, (name, judged) in zip(every, ranking.predictors.items()):
        values = np.array([network.scores[name] for network in ranking.networks])
        axes.vlines(values, accuracies.min(1), accuracies.max(1), color="#bbbbbb", linewidth=1)
        _draw(axes, values, truth, plain, label_of(name), judged)
        unit = UNITS.get(name) or describe_metric(name).unit
        axes.set_xlabel(f"{label_of(name)} ({unit})" if unit else label_of(name), fontsize=8)
        if name in METRICS and describe_metric(name).write is short_number:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if name == "depth":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ranking.ceiling is not None:
        axes = every[len(ranking.predictors)]
        _draw(axes, accuracies[:, 1], accuracies[:, 0], plain, CEILING, ranking.ceiling)
        axes.set_xlabel(f"accuracy, seed {ranking.seeds[1]} (%)", fontsize=8)
        axes.set_ylabel(f"seed {ranking.seeds[0]} (%)", fontsize=8)
    for axes in every[panels:]:
        axes.axis("off")
    for row in range(rows):
        if row * columns < len(ranking.predictors):
            every[row * columns].set_ylabel("accuracy, trained alone (%)", fontsize=8)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper right", ncols=2,
                  frameon=False, fontsize=9)  # fmt: skip
    return save_figure(figure, path)


def _draw(
    axes: Axes, x: np.ndarray, y: np.ndarray, plain: np.ndarray, label: str, judged: Judged
) -> None:
    for chosen, colour, name in ((~plain, OTHER, "mixed"), (plain, PLAIN, "plain")):
        axes.scatter(x[chosen], y[chosen], s=20, color=colour, linewidths=0, alpha=0.85,
                     label=name, zorder=3)  # fmt: skip
    tau, interval, *_ = _cells(judged)
    axes.set_title(f"{label}\nτ {tau} ({interval})", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _cells(judged: Judged) -> list[str]:
    """Return tau, its interval and the regrets; a dash for what is not a number."""
    interval = interval_text(judged.interval)
    return [_text(judged.tau), interval, *(_text(judged.regrets[k]) for k in TOPS)]


def _text(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
