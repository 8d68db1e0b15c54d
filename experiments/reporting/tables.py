"""Tables for a terminal: the front, and retrained networks side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from evaluators.metric import EVALUATED, METRICS, by_registration, describe_metric, metrics_among
from experiments.reporting.colours import colours_of, ink_on
from search.trials import INHERITED, SEARCHED, SearchResult, TrialRecord
from search_space import Architecture, ChoiceSpace

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

WIDEST_NAMES = 48  # characters of a row's architecture before the names are abbreviated


class Network(Protocol):
    """What `comparison` shows of a retrained network."""

    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> Architecture: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def accuracy_text(self) -> str: ...
    @property
    def latencies(self) -> Mapping[str, float]: ...
    @property
    def inherited(self) -> bool: ...


class Prediction(Protocol):
    """What is shown of a predicted accuracy: in percent, its standard error, 95 % interval."""

    @property
    def accuracy(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...


class Fitting:
    """The first of several tables that fits where it is printed; the last, if none does."""

    def __init__(self, *tables: Table) -> None:
        self.tables = tables
        for column in (column for table in tables for column in table.columns):
            if column.no_wrap:  # rich takes the longest word for what it needs
                texts = (column.header, *column.cells)
                column.min_width = max(len(str(text)) for text in texts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(width=10_000)
        for table in self.tables:
            table_fits = table.__rich_measure__(console, unlimited).minimum <= options.max_width
            if table_fits or table is self.tables[-1]:
                yield table
                return


def front_table(
    result: SearchResult, predicted: Mapping[Architecture, Prediction] = MappingProxyType({})
) -> Fitting:
    """Return the front for a terminal: index, metrics, the architecture as coloured blocks.

    Beside an accuracy is the one by which the search selected, where it was read a second time, or
    the one with inherited weights, where the network was trained alone. A narrow terminal shows
    what was asked for, and accuracy.

    Args:
        predicted: Accuracies of members if they were trained on their own.
    """
    found = {name for record in result.front for name in record.metrics}
    names = [n for n in by_registration(found) if n in METRICS or n in result.goal.metrics]
    second = {
        name: (which, title)
        for which, title in ((INHERITED, "inherited"), (SEARCHED, "in the search"))
        for name in names
        if f"{which}{name}" in found and describe_metric(name).effort == EVALUATED
    }
    wanted = {*result.goal.objectives, *result.goal.bounds, "accuracy"}
    asked = [name for name in names if name in wanted]
    tables = [_front_table(result, names, second, predicted)]
    if second:
        tables.append(_front_table(result, names, {}, predicted))
    if asked != names:
        tables.append(_front_table(result, asked, {}, predicted))
    for table in tables[1:]:
        table.caption = f"{table.caption or ''}\nmore in report/front.csv".strip()
    return Fitting(*tables)


def _front_table(
    result: SearchResult,
    names: Sequence[str],
    second: Mapping[str, tuple[str, str]],
    predicted: Mapping[Architecture, Prediction],
) -> Table:
    """Return the front with some metrics; `second` has the other reading of one and its title."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    verified = any(f"{INHERITED}accuracy" in record.metrics for record in result.front)
    what = "Verified front" if verified else "Front"
    title = f"{what}: {len(result.front)} of {len(result.trials)} architectures"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("index", justify="right", no_wrap=True)
    columns: list[tuple[str, str]] = []  # a metric, and what is in front of its name
    for name in names:
        columns.append(("", name))
        table.add_column(describe_metric(name).title, justify="right", no_wrap=True)
        if name in second:
            which, heading = second[name]
            columns.append((which, name))
            table.add_column(heading, justify="right", no_wrap=True)
    if predicted:
        table.add_column("trained alone, predicted (%)", justify="right", no_wrap=True)
    table.add_column("architecture", min_width=12)  # the only one that may wrap
    labels = _labels(result.front)
    if any(label != name for name, label in labels.items()):
        table.caption = "  ".join(f"{label} {name}" for name, label in labels.items())
    colours = colours_of(ChoiceSpace([list(labels)])) if labels else {}
    for index, record in enumerate(result.front):
        values = [_with_error(name, _reading(record.metrics, which)) for which, name in columns]
        if predicted:
            alone = predicted[record.architecture]
            values.append(f"{alone.accuracy:.1f} ± {alone.error:.1f}")
        table.add_row(str(index), *values, _blocks(record, labels, colours))
    return table


def comparison(networks: Sequence[Network], every_form: bool = True) -> Table:
    """Return retrained networks side by side; the last columns are the forms they ship in.

    Args:
        every_form: False leaves these columns out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    inherited = any(network.inherited for network in networks)
    title = "Fine-tuned from the supernet" if inherited else "Retrained from scratch"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("network")
    table.add_column("test accuracy (%)", justify="right")
    costs = metrics_among(name for network in networks for name in network.metrics)
    costs = [metric for metric in costs if metric.direction == "minimize"]
    for metric in costs:
        table.add_column(metric.title, justify="right")
    shipped = [form for network in networks for form in network.latencies]
    forms = list(dict.fromkeys(shipped)) if every_form else []
    for form in forms:
        table.add_column(f"{form} (ms)", justify="right", no_wrap=True)
    latency = describe_metric("latency_ms")
    for network in networks:
        values, times = network.metrics, network.latencies
        texts = [m.write(values[m.name]) if m.name in values else "too noisy" for m in costs]
        texts += [latency.write(times[form]) if form in times else "" for form in forms]
        table.add_row(network.name, network.accuracy_text, *texts)
    table.caption = "\n".join(f"{n.name}: {' '.join(n.architecture)}" for n in networks)
    table.caption_justify = "left"
    return table


def _reading(metrics: Mapping[str, float], which: str) -> dict[str, float]:
    """Return one of two readings under the plain names of the metrics."""
    return {name.removeprefix(which): v for name, v in metrics.items() if name.startswith(which)}


def _with_error(name: str, metrics: Mapping[str, float]) -> str:
    """A value for a column whose head has the unit, with its uncertainty; empty if missing."""
    if name not in metrics:
        return ""
    metric = describe_metric(name)
    error = metric.error(metrics)
    if error is None:
        return metric.write(metrics[name])
    value = metrics[name]
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _labels(front: Sequence[TrialRecord]) -> dict[str, str]:
    """Return candidate name -> text of its block: the name, or two letters in a deep network."""
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
