"""Pictures of how a search went, and of how far counting would have misled it.

Each is given with its caption.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluators.metric import describe_metric
from experiments.reporting.figures import new_figure, save_figure, style_axes
from experiments.reporting.plots import FRONT, OTHER, VERIFIED, points_of
from search.ranking import kendall_tau_with_interval
from search.trials import SearchResult

COUNTED, MEASURED = "macs", "latency_ms"


def plot_course(result: SearchResult, path: Path) -> tuple[str, Path] | None:
    """Draw the hypervolume after each trial, and the best accuracy within the bounds so far.

    Returns:
        The caption and the path; None where neither is known of two trials.
    """
    good = {"complete", "stopped"}
    read = [r.metrics.get("accuracy", np.nan) if r.state in good else np.nan for r in result.trials]
    drawn: list[tuple[str, list[float], str]] = []
    if len(result.hypervolume) > 1:
        drawn.append(("hypervolume of the front", list(result.hypervolume), FRONT))
    if len(read) > 1 and not np.isnan(read).all():
        best = np.fmax.accumulate(np.array(read, dtype=float))
        title = describe_metric("accuracy").title
        drawn.append((f"best {title} so far", best.tolist(), VERIFIED))
    if not drawn:
        return None
    figure = new_figure(7.2, 0.6 + 1.9 * len(drawn))
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, values, colour) in zip(panels, drawn):
        axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.6)
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("trials")
    text = "How the front grew; accuracies are those of the search, with inherited weights"
    return text, save_figure(figure, path)


def plot_counting(result: SearchResult, path: Path) -> tuple[str, Path] | None:
    """Draw measured latency over counted multiply-accumulates, and say how they agree.

    Returns:
        The caption and the path; None where not both are known of three trials.
    """
    points = points_of(result.trials, COUNTED, MEASURED)
    if len(points) < 3:
        return None
    counted, measured = zip(*points)
    tau, (low, high) = kendall_tau_with_interval(counted, measured)
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    axes.scatter(counted, measured, s=20, color=OTHER, alpha=0.7, linewidths=0)
    style_axes(axes, COUNTED, MEASURED)
    text = (
        f"Had it been counted instead: multiply-accumulates order {len(points)} networks as the "
        f"measured latency does with a Kendall's tau of {tau:.2f} ({low:.2f} to {high:.2f})"
    )
    return text, save_figure(figure, path)
