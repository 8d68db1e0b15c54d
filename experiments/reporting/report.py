"""What a search leaves for people: tables, pictures, and one folder per member of the front."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.atomic import write_atomically
from configs.errors import UserError
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.pages import front_html
from experiments.reporting.plots import LABELS, metric_text, plot_architectures, plot_front
from search.trials import SearchResult, TrialRecord
from search_space import ChoiceSpace, SearchSpace, save_architecture

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COSTS = ("latency_ms", "macs", "params", "memory_mb")  # what a knee weighs accuracy against
HEADS = {"latency_ms": "latency (ms)", "macs": "MACs", "memory_mb": "memory (MB)"}
WIDEST_NAMES = 48  # characters of a row's architecture before the names are abbreviated


def write_report(result: SearchResult, space: ChoiceSpace, directory: Path) -> list[Path]:
    """Write the report of a search and return its files, anew each time.

    ``front.csv``, ``trials.csv``, ``front.png``, ``front.html``, ``architectures.png``, and for a
    space with networks ``front/INDEX/architecture.yaml`` for each member of the front.
    """
    files = [
        _write_csv(result.front, directory / "front.csv", "index"),
        _write_csv(result.trials, directory / "trials.csv", "number"),
        plot_front(result, directory / "front.png"),
        front_html(result, space, directory / "front.html"),
        plot_architectures(result.front, space, directory / "architectures.png"),
    ]
    if isinstance(space, SearchSpace):
        files += _write_front(result.front, space, directory)
    return files


def _write_front(front: Sequence[TrialRecord], space: SearchSpace, directory: Path) -> list[Path]:
    """One folder per member; those of an earlier, larger front must not stay behind."""
    new = directory / ".front"
    shutil.rmtree(new, ignore_errors=True)
    for index, record in enumerate(front):
        save_architecture(new / str(index) / "architecture.yaml", space, record.architecture)
    shutil.rmtree(directory / "front", ignore_errors=True)
    os.replace(new, directory / "front")
    return [directory / "front" / str(i) / "architecture.yaml" for i in range(len(front))]


def _write_csv(records: Sequence[TrialRecord], path: Path, first: str) -> Path:
    """One line per record: its number (or index), state, metrics, seconds and architecture."""
    found = {name for record in records for name in record.metrics}
    metrics = [name for name in LABELS if name in found] + sorted(found - set(LABELS))
    numbers = ["index", "number"] if first == "index" else ["number"]
    columns = [*numbers, "state", *metrics, "seconds", "architecture", "message"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for index, record in enumerate(records):
        row = {"index": index, "number": record.number, "state": record.state}
        rest = {"seconds": round(record.seconds, 3), "message": record.message}
        names = " ".join(record.architecture)
        writer.writerow({**row, **record.metrics, **rest, "architecture": names})
    write_atomically(path, text.getvalue())
    return path


def pick(front: Sequence[TrialRecord], choice: str | int) -> TrialRecord:
    """A member of the front: ``best``, ``knee``, or its index.

    ``best`` has the highest accuracy; without accuracies it is the first member, which is the best
    in the first objective. ``knee`` is where more accuracy begins to cost much: of latency (else
    MACs, parameters, memory) and accuracy, each scaled to the front's range, it is the member
    farthest above the straight line from the cheapest member to the most accurate one. No unit or
    scale changes it; a front without such a member (two points, or bent inwards) gives ``best``.

    Raises `UserError` for anything else, naming what can be picked.
    """
    if not front:
        raise UserError("--pick: the front is empty; no architecture can be picked")
    if choice == "best":
        return max(front, key=lambda record: record.metrics.get("accuracy", -math.inf))
    if choice == "knee":
        return _knee(front)
    if re.fullmatch(r"\d+", str(choice)) and int(choice) < len(front):
        return front[int(choice)]
    raise UserError(
        f"--pick: {choice!r} is no member of the front; choose best, knee or an index from 0 to "
        f"{len(front) - 1}"
    )


def _knee(front: Sequence[TrialRecord]) -> TrialRecord:
    best = pick(front, "best")
    cost = next((c for c in COSTS if all(c in record.metrics for record in front)), None)
    if cost is None or any("accuracy" not in record.metrics for record in front):
        return best
    cheapest = min(front, key=lambda record: record.metrics[cost])
    price = best.metrics[cost] - cheapest.metrics[cost]
    gain = best.metrics["accuracy"] - cheapest.metrics["accuracy"]
    if price <= 0 or gain <= 0:
        return best

    def above_the_line(record: TrialRecord) -> float:
        accuracy = (record.metrics["accuracy"] - cheapest.metrics["accuracy"]) / gain
        return accuracy - (record.metrics[cost] - cheapest.metrics[cost]) / price

    knee = max(front, key=above_the_line)
    return knee if above_the_line(knee) > 1e-9 else best


def front_table(result: SearchResult) -> Table:
    """The front for a terminal: index, metrics, and the architecture as coloured blocks.

    The ± behind a latency is half the interquartile range of its measurement.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = [name for name in LABELS if any(name in record.metrics for record in result.front)]
    title = f"Front: {len(result.front)} of {len(result.trials)} architectures"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("index", justify="right", no_wrap=True)
    for name in names:
        table.add_column(HEADS.get(name, name), justify="right", no_wrap=True)
    table.add_column("architecture")  # the only one that may wrap
    labels = _labels(result.front)
    if any(label != name for name, label in labels.items()):
        table.caption = "  ".join(f"{label} {name}" for name, label in labels.items())
    colours = colours_of(ChoiceSpace([list(labels)])) if labels else {}
    for index, record in enumerate(result.front):
        values = [_table_value(record, name) for name in names]
        table.add_row(str(index), *values, _blocks(record, labels, colours))
    return table


def _table_value(record: TrialRecord, name: str) -> str:
    value = record.metrics.get(name)
    if value is None:
        return ""
    if name == "latency_ms":
        digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2
        spread = record.metrics.get("latency_spread")  # interquartile range / median
        error = f" ± {value * spread / 2:.{digits}f}" if spread is not None else ""
        return f"{value:.{digits}f}{error}"
    return f"{value:.2f}" if name == "accuracy" else metric_text(name, value)


def _labels(front: Sequence[TrialRecord]) -> dict[str, str]:
    """Candidate name -> what stands in its block: the name, or two letters in a deep network."""
    names = sorted({name for record in front for name in record.architecture})
    widest = max((len(" ".join(record.architecture)) for record in front), default=0)
    short = {name: _abbreviation(name) for name in names}
    unique = len(set(short.values())) == len(names)
    return short if widest > WIDEST_NAMES and unique else {name: name for name in names}


def _abbreviation(name: str) -> str:
    if name == "skip":
        return "--"
    return name[0] + name[-1] if name[-1].isdigit() else name[:2]


def _blocks(record: TrialRecord, labels: dict[str, str], colours: dict[str, str]) -> Text:
    from rich.text import Text

    text = Text()
    for position, name in enumerate(record.architecture):
        text.append(" " if position else "")
        text.append(labels[name], style=f"{ink_on(colours[name])} on {colours[name]}")
    return text
