"""How a picture begins and ends: drawn without a display, written atomically."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from configs.atomic import write_atomically
from evaluators.metric import describe_metric, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches, of 150 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return the path."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(path, data.getvalue())
    return path


def write_headline(figure: Figure, text: str) -> None:
    """Put a sentence above a picture, in as many lines as it takes; nothing for none."""
    if text:
        width = round(figure.get_figwidth() * 14)  # characters
        lines = "\n".join(textwrap.wrap(text, width))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=9.5)


def style_axes(axes: Axes, x: str, y: str) -> None:
    """Name the axes after metrics, and draw a light grid."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel(describe_metric(x).title)
    axes.set_ylabel(describe_metric(y).title)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for name, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if describe_metric(name).write is short_number:
            axis.set_major_formatter(EngFormatter(sep=""))
