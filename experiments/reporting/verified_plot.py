"""The picture of a verified front, above that of the accuracies by which it was searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.metric import describe_metric
from experiments.reporting.figures import new_figure, save_figure, style_axes, write_headline
from experiments.reporting.plots import FRONT, OTHER, VERIFIED, front_axes, points_of, scatter
from experiments.reporting.verified import VerifiedNetwork
from search.trials import INHERITED, SearchResult, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Y = "accuracy"
INTERVAL = 1.96  # standard errors: holds the value nineteen times in twenty


def plot_verified_front(
    result: SearchResult, networks: Sequence[VerifiedNetwork], path: Path, headline: str = ""
) -> Path:
    """Draw the networks that were trained to the end, and below them what the search had read.

    Above are accuracies of networks trained alone, with 95 % intervals; the front's members are
    joined and have their index. Below are all trials with inherited weights, on a scale of their
    own, and the same networks among them. Plain networks are squares.

    Args:
        headline: What the picture comes to, above it.
    """
    x, _ = front_axes(result.goal.objectives)
    x = "number" if x == Y else x
    figure = new_figure(7.2, 7.6)
    above, below = figure.subplots(2, 1, sharex=True)
    finished = [network for network in networks if network.finished]
    _draw_finished(above, result, finished, x)
    shown = {network.record.number for network in finished}
    complete = [record for record in result.trials if record.state == "complete"]
    others = [record for record in complete if record.number not in shown]
    scatter(below, points_of(others, x, Y), s=22, color=OTHER, alpha=0.7, linewidths=0,
            label=f"{len(complete)} trials")  # fmt: skip
    _draw_inherited(below, result, finished, x)
    for axes, title in ((above, "trained alone, with 95 % intervals"),
                        (below, "with inherited weights")):  # fmt: skip
        style_axes(axes, x, Y)
        axes.set_title(title, fontsize=9, loc="left")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="lower right")
        if x in result.goal.bounds:
            axes.axvline(result.goal.bounds[x], color="#555555", lw=1, ls=(0, (4, 3)))
    above.set_xlabel("")
    write_headline(figure, headline)
    return save_figure(figure, path)


def _draw_finished(
    axes: Axes, result: SearchResult, finished: Sequence[VerifiedNetwork], x: str
) -> None:
    front = [record.architecture for record in result.front]
    steps = sorted(points_of(result.front, x, Y))
    if len(result.goal.objectives) == 2:
        axes.plot(*zip(*steps), color=FRONT, linewidth=1.4, alpha=0.7, drawstyle="steps-post")
    for network in finished:
        record = network.reported
        colour = FRONT if record.architecture in front else VERIFIED
        error = describe_metric(Y).error(record.metrics)
        for point in points_of([record], x, Y):
            axes.errorbar(*point, yerr=INTERVAL * (error or 0.0), fmt="s" if network.plain else "o",
                          color=colour, markersize=6, linewidth=1.2, markeredgecolor="white",
                          zorder=3)  # fmt: skip
            if record.architecture in front:
                _number(axes, point, front.index(record.architecture))
    for marker, colour, label in (("o", FRONT, f"front ({len(front)})"),
                                  ("o", VERIFIED, "verified, not on the front"),
                                  ("s", OTHER, "plain: one candidate throughout")):  # fmt: skip
        axes.plot([], [], marker, color=colour, markersize=6, label=label)


def _draw_inherited(
    axes: Axes, result: SearchResult, finished: Sequence[VerifiedNetwork], x: str
) -> None:
    front = [record.architecture for record in result.front]
    for network in finished:
        record = _as_inherited(network.reported)
        colour = FRONT if record.architecture in front else VERIFIED
        for point in points_of([record], x, Y):
            axes.plot(*point, "s" if network.plain else "o", color=colour, markersize=6,
                      markeredgecolor="white")  # fmt: skip
            if record.architecture in front:
                _number(axes, point, front.index(record.architecture))


def _as_inherited(record: TrialRecord) -> TrialRecord:
    kept = {k: v for k, v in record.metrics.items() if k != Y}
    if f"{INHERITED}{Y}" in kept:
        kept[Y] = kept[f"{INHERITED}{Y}"]
    return TrialRecord(record.number, record.architecture, kept, record.state)


def _number(axes: Axes, point: tuple[float, float], index: int) -> None:
    axes.annotate(str(index), point, (6, 4), textcoords="offset points", fontsize=9)
