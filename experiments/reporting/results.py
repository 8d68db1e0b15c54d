"""The picture of a result: the front as it was searched, and what networks reach when trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.metric import describe_metric
from experiments.reporting.baselines import Trained, shown
from experiments.reporting.figures import new_figure, save_figure, style_axes
from experiments.reporting.plots import FRONT, OTHER
from search.trials import INHERITED, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {  # the kind of a trained network: marker, colour, label
    "pick": ("*", "#d55e00", "the pick"),
    "family": ("s", "#0072b2", "one family alone"),
    "random": ("^", "#009e73", "best random"),
    "front": ("o", "#e69f00", "other members of the front"),
    "timm": ("D", "#cc79a7", "timm"),
}


def plot_results(
    networks: Sequence[Trained],
    front: Sequence[TrialRecord],
    trials: Sequence[TrialRecord],
    cost: str,
    path: Path,
) -> Path:
    """Draw test accuracy over cost of trained networks above that of the search's front.

    Bars above are standard deviations over seeds, below standard errors of an accuracy.

    Args:
        cost: A metric that the members of the front have, such as ``latency_ms``.
    """
    panels = bool(networks) + bool(front)
    figure = new_figure(7.2, 3.3 * panels + 0.6)
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    if networks:
        _draw_networks(axes[0], shown(networks), cost)
    if front:
        _draw_search(axes[-1], front, trials, cost)
    axes[-1].set_xlabel(describe_metric(cost).title)
    return save_figure(figure, path)


def _draw_search(
    axes: Axes, front: Sequence[TrialRecord], trials: Sequence[TrialRecord], cost: str
) -> None:
    accuracy = describe_metric("accuracy")
    members = {record.number for record in front}
    others = [(r.metrics[cost], r.metrics["accuracy"]) for r in trials
              if r.number not in members and {cost, "accuracy"} <= r.metrics.keys()]  # fmt: skip
    if others:
        x, y = zip(*others)
        axes.scatter(x, y, s=16, color=OTHER, alpha=0.6, linewidths=0, label="trials")
    known = [record for record in front if {cost, "accuracy"} <= record.metrics.keys()]
    if known:
        axes.errorbar(
            [record.metrics[cost] for record in known],
            [record.metrics["accuracy"] for record in known],
            yerr=[accuracy.error(record.metrics) or 0.0 for record in known],
            fmt="o", color=FRONT, markersize=5, linewidth=1.2, label=f"front ({len(known)})",
        )  # fmt: skip
    style_axes(axes, cost, "accuracy")
    verified = any(f"{INHERITED}accuracy" in record.metrics for record in known)
    what = "front trained alone, trials with inherited weights" if verified else "as searched"
    title = f"{what}, on validation images; bars: standard error"
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8.5, loc="best")


def _draw_networks(axes: Axes, networks: Sequence[Trained], cost: str) -> None:
    drawn: set[str] = set()
    for network in networks:
        values = {"latency_ms": network.latency_ms, "params": network.params, "macs": network.macs}
        x = values.get(cost)
        if x is None:
            continue
        marker, colour, label = MARKS.get(network.kind, MARKS["timm"])
        axes.errorbar(
            [x], [network.mean], yerr=[network.deviation or 0.0], fmt=marker, color=colour,
            markersize=11 if network.kind == "pick" else 6, linewidth=1.3,
            label="" if label in drawn else label,
        )  # fmt: skip
        drawn.add(label)
        axes.annotate(network.name, (x, network.mean), (7, 4), textcoords="offset points",
                      fontsize=8)  # fmt: skip
    style_axes(axes, cost, "accuracy")
    axes.margins(x=0.12)
    axes.set_xlabel("")
    seeds = max(len(network.test) for network in networks)
    axes.set_title(
        f"trained alone, on test images, {seeds} seed(s); bars: deviation", fontsize=9, loc="left"
    )
    axes.legend(frameon=False, fontsize=8.5, loc="best")
