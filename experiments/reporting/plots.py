"""Pictures for people: the front, the architectures as coloured strips, the training curves.

All are PNG files, drawn without a display and written atomically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evaluators.metric import metrics_among
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.figures import new_figure, save_figure, style_axes, write_headline
from experiments.reporting.front import cost_of
from experiments.reporting.tables import Prediction
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, ChoiceSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRONT, OTHER, INFEASIBLE, VERIFIED = "#d55e00", "#9a9a9a", "#c4c4c4", "#0072b2"


def front_axes(objectives: Mapping[str, str]) -> tuple[str, str]:
    """Return the metrics to draw: the first that is minimised, the first that is maximised.

    Where all objectives point one way, the second against the first; a single one against the
    trial's number, called ``number``.
    """
    down = [name for name, direction in objectives.items() if direction == "minimize"]
    up = [name for name, direction in objectives.items() if direction == "maximize"]
    if up and down:
        return down[0], up[0]
    names = [*objectives, "number"]
    return names[1], names[0]


def _value(record: TrialRecord, name: str) -> float | None:
    return float(record.number) if name == "number" else record.metrics.get(name)


def points_of(records: Sequence[TrialRecord], x: str, y: str) -> list[tuple[float, float]]:
    """Return two metrics of the records that have both; ``number`` is a trial's."""
    pairs = [(_value(record, x), _value(record, y)) for record in records]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def plot_front(
    result: SearchResult,
    path: Path,
    verified: Mapping[Architecture, Prediction] = MappingProxyType({}),
    headline: str = "",
) -> Path:
    """Draw all trials, and the front on top with the index of each member (see `front_axes`).

    Stopped trials are rings, at what was read of them. Infeasible trials that were never evaluated
    in full are ticks on the axis of what is known of them; dashed lines are the bounds.
    Predictions, where accuracy is the upright axis, have a panel of their own above it: inherited
    accuracies may be far below them.

    Args:
        verified: Predicted accuracies of members if they were trained on their own.
        headline: What the picture comes to, above it.
    """
    x, y = front_axes(result.goal.objectives)
    if verified and y == "accuracy":
        figure = new_figure(7.2, 7.0)
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        _draw_verified(above, result, x, verified)
    else:
        figure = new_figure(7.2, 4.6)
        axes = figure.add_subplot()
    complete = [record for record in result.trials if record.state == "complete"]
    rejected = [record for record in result.trials if record.state == "infeasible"]
    stopped = [record for record in result.trials if record.state == "stopped"]
    members = {record.number for record in result.front}  # drawn as they were measured last
    others = [record for record in complete if record.number not in members]
    scatter(axes, points_of(others, x, y), s=22, color=OTHER, alpha=0.7, linewidths=0,
            label=f"{len(complete)} trials")  # fmt: skip
    scatter(axes, points_of(stopped, x, y), s=18, facecolors="none", edgecolors=OTHER, alpha=0.7,
            label=f"{len(stopped)} stopped")  # fmt: skip
    if rejected:
        label = f"{len(rejected)} infeasible"
        scatter(axes, points_of(rejected, x, y), s=22, marker="x", color=INFEASIBLE)
        known = [r.metrics[x] for r in rejected if x in r.metrics and y not in r.metrics]
        axes.plot(known, [0.012] * len(known), "|", color=OTHER, markersize=9, clip_on=False,
                  transform=axes.get_xaxis_transform(), label=label)  # fmt: skip
    _draw_front(axes, result, x, y)
    bounds = result.goal.bounds
    dashed: dict[str, Any] = {"color": "#555555", "lw": 1, "ls": (0, (4, 3))}
    if x in bounds:
        axes.axvline(bounds[x], **dashed)
    if y in bounds:
        axes.axhline(bounds[y], **dashed)
    style_axes(axes, x, y)
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.04))
    write_headline(figure, headline)
    figure.draw_without_rendering()  # fixes the scale
    _number_front(axes, result, x, y)
    return save_figure(figure, path)


def scatter(axes: Axes, points: Sequence[tuple[float, float]], **options: Any) -> None:
    """Draw points; nothing where there are none."""
    if points:
        axes.scatter(*zip(*points), **options)


def _draw_front(axes: Axes, result: SearchResult, x: str, y: str) -> None:
    """Draw the front's members, joined by steps where the picture shows every objective."""
    members = sorted(points_of(result.front, x, y))
    if not members:
        return
    xs, ys = zip(*members)
    if len(result.goal.objectives) == 2:
        steps = "steps-post" if result.goal.objectives.get(x) == "minimize" else "steps-pre"
        axes.plot(xs, ys, color=FRONT, linewidth=1.4, alpha=0.7, drawstyle=steps, zorder=2)
    axes.scatter(xs, ys, s=52, color=FRONT, edgecolors="white", linewidths=1, zorder=3,
                 label=f"front ({len(members)})")  # fmt: skip


def _draw_verified(
    axes: Axes, result: SearchResult, x: str, verified: Mapping[Architecture, Prediction]
) -> None:
    """Draw each member's prediction with the interval that holds it nineteen times in twenty."""
    for index, record in enumerate(result.front):
        cost = _value(record, x)
        if cost is not None and record.architecture in verified:
            predicted = verified[record.architecture]
            low, high = predicted.interval
            axes.plot([cost, cost], [low, high], color=VERIFIED, linewidth=1.3)
            axes.plot([cost], [predicted.accuracy], "D", color=VERIFIED, markersize=4.5)
            axes.annotate(str(index), (cost, predicted.accuracy), (6, 3),
                          textcoords="offset points", fontsize=8.5)  # fmt: skip
    style_axes(axes, x, "accuracy")
    axes.set_xlabel("")
    axes.set_title("trained alone: predicted, with 95 % intervals", fontsize=9, loc="left")


def _number_front(axes: Axes, result: SearchResult, x: str, y: str) -> None:
    """Write each member's index on the side where nothing can be; crowded ones step aside."""
    side = -1 if result.goal.objectives.get(x) == "minimize" else 1
    placed: list[tuple[float, float]] = []
    for index, record in enumerate(result.front):
        for point in points_of([record], x, y):
            left, bottom = axes.transData.transform(point) / axes.figure.dpi * 72  # in points
            shift = side * 8.0
            while any(abs(left + shift - a) < 11 and abs(bottom - b) < 9 for a, b in placed):
                shift += side * 11
            placed.append((left + shift, bottom))
            axes.annotate(str(index), point, (shift, 3), textcoords="offset points",
                          ha="center", fontsize=8.5)  # fmt: skip


def plot_architectures(records: Sequence[TrialRecord], space: ChoiceSpace, path: Path) -> Path:
    """Draw one strip per record, one cell per layer, coloured by candidate; the cheapest on top.

    The number on the left is the record's place in ``records``, which is the index to pick a
    member of a front by. A gap parts the stages. Without a common cost the order stays.
    """
    cost, order = cost_of(records), list(range(len(records)))
    if cost is not None:
        order.sort(key=lambda index: records[index].metrics[cost])
    colours = colours_of(space)
    cell = max(0.36, 0.095 * max(map(len, colours)))
    gap, height = 0.16, 0.34
    stages = [layer.stage - space.layers[0].stage for layer in space.layers]
    lefts = [index * cell + stage * gap for index, stage in enumerate(stages)]
    shown = metrics_among(name for record in records for name in record.metrics)
    right, text_width = lefts[-1] + cell, 0.95
    width = 0.7 + max(right + text_width * len(shown), cell * len(colours)) + 0.3
    total = 1.3 + len(records) * height
    figure = new_figure(max(width, 4.0), total)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.7, max(width, 4.0) - 0.7)
    axes.set_ylim(total - 0.35, -0.35)
    axes.axis("off")
    for position, metric in enumerate(shown):
        axes.text(right + text_width * (position + 0.95), -0.12, metric.label,
                  ha="right", fontsize=8, color="#666666")  # fmt: skip
    for row, index in enumerate(order):
        record, top = records[index], row * height
        axes.text(-0.18, top + height / 2, str(index), ha="right", va="center", fontsize=9)
        for left, name in zip(lefts, record.architecture):
            _cell(axes, left, top, cell - 0.03, height - 0.05, name, colours[name])
        for position, metric in enumerate(shown):
            if metric.name in record.metrics:
                axes.text(right + text_width * (position + 0.95), top + height / 2,
                          metric.text(record.metrics[metric.name]), ha="right", va="center",
                          fontsize=8.5)  # fmt: skip
    below = len(records) * height
    for position, (name, colour) in enumerate(colours.items()):
        _cell(axes, position * cell, below + 0.42, cell - 0.03, height - 0.05, name, colour)
    note = "above: layers from the image (left) to the classifier; below: every candidate"
    axes.text(0, below + 0.22, note, fontsize=7.5, color="#666666", va="center")
    return save_figure(figure, path)


def _cell(
    axes: Axes, left: float, top: float, width: float, height: float, name: str, colour: str
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, linewidth=0))
    axes.text(left + width / 2, top + height / 2, name, ha="center", va="center_baseline",
              fontsize=6.8, color=ink_on(colour))  # fmt: skip


def plot_curves(history: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Draw training curves: one mapping of metrics per epoch; ``epoch`` counts from 1 where given.

    Metrics with the same last word share a panel: ``loss`` with ``validation_loss``.
    """
    names = [n for n in dict.fromkeys(n for row in history for n in row) if n != "epoch"]
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(name.rsplit("_", 1)[-1], []).append(name)
    figure = new_figure(4.2 * max(len(panels), 1), 3.4)
    colours = ("#0072b2", FRONT, "#009e73", "#cc79a7")
    for position, (panel, members) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), position + 1)
        for name, colour in zip(members, colours):
            rows = [(row.get("epoch", i + 1), row[name])
                    for i, row in enumerate(history) if name in row]  # fmt: skip
            axes.plot(*zip(*rows), color=colour, linewidth=1.8, label=name,
                      marker="o" if len(rows) < 3 else "")  # fmt: skip
        style_axes(axes, "epoch", panel)
        if len(members) > 1:
            axes.legend(frameon=False, fontsize=9)
    return save_figure(figure, path)
