"""A retrained network on disk, and which of several is worth shipping."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from configs.atomic import write_atomically
from configs.kept import read_or_none
from experiments.tracking.model_registry import dominates
from search_space import Architecture


@dataclass(frozen=True)
class Retrained:
    """A trained network in a folder, and the figures of all its seeds: its ``metrics.json``.

    Attributes:
        metrics: Those of the shipped seed, the best on the search-validation split.
        test_accuracies: In percent, one a seed.
        latencies: Milliseconds of every form that was measured: ``eager`` and the exported files.
        conditions: A hash of recipe, data, latency settings and device; networks with equal ones
            may be compared.
        plain: Whether one candidate is used throughout.
        inherited: Whether the training began with the supernet's weights.
        scale: By what the stage widths of the space that is searched were multiplied.
    """

    name: str
    folder: Path
    architecture: Architecture
    metrics: dict[str, float]
    seeds: list[int]
    test_accuracies: list[float]
    latencies: dict[str, float]
    class_names: list[str]
    conditions: str
    plain: bool
    inherited: bool
    scale: float = 1.0

    @property
    def accuracy_text(self) -> str:
        """Test accuracy in percent, with the standard deviation where there are several seeds."""
        mean = statistics.mean(self.test_accuracies)
        if len(self.test_accuracies) == 1:
            return f"{mean:.2f}"
        return f"{mean:.2f} ± {statistics.stdev(self.test_accuracies):.2f}"

    def _repr_html_(self) -> str:
        """Show what was trained and what came out in a notebook."""
        shown = {
            "architecture": " ".join(self.architecture),
            "test accuracy": f"{self.accuracy_text} %",
            **{f"latency, {form}": f"{ms:.3g} ms" for form, ms in self.latencies.items()},
            "weights": self.folder / "weights.safetensors",
        }
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in shown.items()
        )
        return f"<p>{escape(self.name)}</p><table>{rows}</table>"

    def write(self) -> None:
        """Write ``metrics.json`` into the folder."""
        values = dataclasses.asdict(self)
        del values["folder"]
        text = json.dumps({**values.pop("metrics"), **values}, indent=1)
        write_atomically(self.folder / "metrics.json", text)


def read_retrained(folder: Path) -> Retrained | None:
    """Return the network of a folder; None where its training was not finished, or is damaged."""
    values = read_or_none(
        folder / "metrics.json", dict, "the same `evolute retrain` writes it again from the seeds"
    )
    if values is None:
        return None
    names = {field.name for field in dataclasses.fields(Retrained)} - {"folder", "metrics"}
    if not names <= values.keys():
        return None  # of an earlier version
    about = {name: values.pop(name) for name in names}
    about["architecture"] = tuple(about["architecture"])
    return Retrained(folder=folder, metrics=values, **about)


def comparable(network: Retrained) -> list[Retrained]:
    """Return the finished networks beside a network that were trained and measured like it."""
    found = [read_retrained(folder) for folder in sorted(network.folder.parent.iterdir())]
    return [
        other
        for other in found
        if other is not None
        and other.conditions == network.conditions
        and (other.architecture, other.scale) != (network.architecture, network.scale)
    ]


def better_plain(network: Retrained, others: Iterable[Retrained]) -> Retrained | None:
    """Return the most accurate plain network that dominates a network, if any does.

    Both are read off the search-validation split: the test split decides nothing.
    """
    better = [o for o in others if o.plain and dominates(o.metrics, network.metrics)]
    return max(better, key=lambda other: other.metrics["validation_accuracy"], default=None)


def verdict(network: Retrained, better: Retrained | None) -> str:
    """Return what to do with a network, for people; ``better`` is that of `better_plain`."""
    if better is None:
        return f"Ready to ship: {network.folder}"
    ours, theirs = network.metrics, better.metrics
    more = theirs["validation_accuracy"] > ours["validation_accuracy"]
    faster = theirs["latency_ms"] < ours["latency_ms"]
    how = "better and faster" if more and faster else "faster" if faster else "better"
    return (
        f"Not worth shipping: the {better.name} network is {how}: {_figures(theirs)} against "
        f"{_figures(ours)} (validation accuracy, latency). Ship that one: {better.folder}"
    )


def _figures(metrics: dict[str, float]) -> str:
    return f"{metrics['validation_accuracy']:.2f} % at {metrics['latency_ms']:.3g} ms"
