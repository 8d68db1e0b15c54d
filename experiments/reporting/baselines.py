"""Trained networks beside the one that was picked: paired differences, as a table and as files."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.atomic import write_atomically
from evaluators.metric import describe_metric

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("network", "test (%)", "pick - it", "p", "ms", "params", "MACs")
DASH = "-"


@dataclass(frozen=True)
class Trained:
    """A network that was trained from several seeds.

    Attributes:
        kind: ``pick``, ``family``, ``random``, ``front`` or ``timm``.
        test: Test accuracy in percent by seed; `validation`, likewise.
        latency_ms: None where the device was too busy to measure it.
        architecture: Empty of a model of timm's.
        epochs: For how many it was trained; None where that is not known.
    """

    name: str
    kind: str
    plain: bool
    test: Mapping[int, float]
    validation: Mapping[int, float]
    latency_ms: float | None
    params: float
    macs: float
    architecture: tuple[str, ...] = ()
    epochs: int | None = None

    @property
    def mean(self) -> float:
        """The mean test accuracy."""
        return statistics.mean(self.test.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.test.values()) if len(self.test) > 1 else None

    @property
    def validated(self) -> float:
        """The mean validation accuracy, by which one of several is chosen."""
        return statistics.mean(self.validation.values())

    @property
    def accuracy_text(self) -> str:
        """The mean with the deviation, where there is one."""
        deviation = self.deviation
        return f"{self.mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


@dataclass(frozen=True)
class Difference:
    """How much more accurate one network is than another, over the seeds that both have.

    Attributes:
        points: The mean difference; None without a common seed.
        p: Of a paired t-test, two-sided; None of fewer than two seeds, or if all are equal.
    """

    points: float | None
    p: float | None
    seeds: int


def paired_difference(ours: Trained, theirs: Trained) -> Difference:
    """Compare test accuracies seed by seed."""
    from scipy.stats import ttest_rel

    seeds = sorted(ours.test.keys() & theirs.test.keys())
    if not seeds:
        return Difference(None, None, 0)
    a, b = ([network.test[seed] for seed in seeds] for network in (ours, theirs))
    gaps = [x - y for x, y in zip(a, b)]
    if len(set(gaps)) == 1:  # no test: the differences do not vary
        return Difference(gaps[0], None, len(seeds))
    return Difference(statistics.mean(gaps), float(ttest_rel(a, b).pvalue), len(seeds))


def shown(networks: Sequence[Trained]) -> list[Trained]:
    """Return the networks with the best of the random ones alone, by validation accuracy."""
    drawn = [network for network in networks if network.kind == "random"]
    best = max(drawn, key=lambda network: network.validated, default=None)
    return [network for network in networks if network.kind != "random" or network is best]


def baselines_table(networks: Sequence[Trained]) -> Table:
    """Return the table for a terminal of 80 columns; the first network is the pick."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"Trained by one recipe, {len(networks[0].test)} seed(s) each"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in HEADS:
        left = head == HEADS[0]
        table.add_column(head, justify="left" if left else "right", no_wrap=not left)
    for network in shown(networks):
        table.add_row(*cells(network, networks))
    return table


def baselines_markdown(networks: Sequence[Trained]) -> str:
    """Return the table as Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|" + "---:|" * (len(HEADS) - 1)]
    lines += ["| " + " | ".join(cells(n, networks)) + " |" for n in shown(networks)]
    return "\n".join(lines) + "\n"


def cells(network: Trained, networks: Sequence[Trained]) -> list[str]:
    """Return a row for `HEADS`; the first of the networks is the pick."""
    pick, drawn = networks[0], sum(other.kind == "random" for other in networks)
    name = f"random, best of {drawn}" if network.kind == "random" else network.name
    gap = Difference(None, None, 0) if network is pick else paired_difference(pick, network)
    latency = network.latency_ms
    return [
        name,
        network.accuracy_text,
        DASH if gap.points is None else f"{gap.points:+.2f}",
        DASH if gap.p is None else f"{gap.p:.2g}",
        DASH if latency is None else describe_metric("latency_ms").write(latency),
        describe_metric("params").write(network.params),
        describe_metric("macs").write(network.macs),
    ]


def write_baselines(networks: Sequence[Trained], folder: Path) -> list[Path]:
    """Write ``baselines.md``, the table, and ``baselines.csv``, all networks; return both."""
    columns = ("network", "kind", "plain", "seeds", "test_accuracy", "deviation", "difference",
               "p", "validation_accuracy", "latency_ms", "params", "macs")  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for network in networks:
        gap = paired_difference(networks[0], network)
        values = [
            len(network.test), network.mean, network.deviation, gap.points, gap.p,
            network.validated, network.latency_ms, network.params, network.macs,
        ]  # fmt: skip
        numbers = ["" if v is None or math.isnan(v) else f"{v:.6g}" for v in values]
        writer.writerow([network.name, network.kind, str(network.plain).lower(), *numbers])
    files = folder / "baselines.csv", folder / "baselines.md"
    write_atomically(files[0], text.getvalue())
    write_atomically(files[1], baselines_markdown(networks))
    return list(files)
