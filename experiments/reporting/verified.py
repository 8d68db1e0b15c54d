"""Networks that were trained alone before a front is reported: their records and their table."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.atomic import write_atomically
from evaluators.metric import by_registration, describe_metric
from search.trials import INHERITED, SEARCHED, SearchResult, TrialRecord

VERIFIED_TABLE = "verified.csv"
READING = ("accuracy", "accuracy_images", "cross_entropy", "cross_entropy_deviation")


@dataclass(frozen=True)
class VerifiedNetwork:
    """A network that was trained alone, for some rungs or all.

    Attributes:
        record: What the search knows of it.
        trained: What its last training came to, see `StandAlone`.
        plain: Whether it has one candidate throughout.
        rung: Its last one, from 0.
        finished: Whether that was the last of all.
    """

    record: TrialRecord
    trained: Mapping[str, float]
    plain: bool
    rung: int
    finished: bool

    @property
    def state(self) -> str:
        """Return what became of it."""
        return "verified" if self.finished else f"dropped at rung {self.rung}"

    @property
    def reported(self) -> TrialRecord:
        """Return its record with the accuracy it was trained to.

        That with inherited weights is beside it (`inherited_...`), of the same images where it was
        measured a second time.
        """
        known = dict(self.record.measured_again().metrics)
        inherited = {f"{INHERITED}{name}": known[name] for name in READING if name in known}
        for name in READING:  # all that is known of them is inherited
            known.pop(name, None)
            known.pop(f"{SEARCHED}{name}", None)
        trained = {k: v for k, v in self.trained.items() if k != "seconds"}
        return dataclasses.replace(self.record, metrics={**known, **inherited, **trained})


def write_verified(networks: Sequence[VerifiedNetwork], path: Path) -> Path:
    """Write one line per network: how far it came, its accuracies, costs and architecture."""
    records = [network.reported for network in networks]
    found = {name for record in records for name in record.metrics}
    columns = ["number", "state", "rung", "plain", "accuracy_error", *by_registration(found)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "architecture"], lineterminator="\n")
    writer.writeheader()
    for network, record in zip(networks, records):
        writer.writerow(
            {
                **record.metrics,
                "number": record.number,
                "state": network.state,
                "rung": network.rung,
                "plain": network.plain,
                "accuracy_error": describe_metric("accuracy").error(record.metrics),
                "architecture": " ".join(record.architecture),
            }
        )
    write_atomically(path, text.getvalue())
    return path


def as_verified(result: SearchResult, networks: Sequence[VerifiedNetwork]) -> SearchResult:
    """Return a result whose accuracies are verified ones, missing where a network was not trained.

    Inherited ones are beside them, so that nobody takes one for the other. A network that was
    dropped at a rung is ``stopped``.
    """
    reported = {
        network.record.number: dataclasses.replace(
            network.reported, state=network.record.state if network.finished else "stopped",
            message=network.record.message or network.state)
        for network in networks
    }  # fmt: skip
    searched = {record.number: _as_inherited(record) for record in result.trials}
    return dataclasses.replace(result, trials=list({**searched, **reported}.values()))


def _as_inherited(record: TrialRecord) -> TrialRecord:
    renamed = {f"{INHERITED}{k}" if k in READING else k: v for k, v in record.metrics.items()}
    return dataclasses.replace(record, metrics=renamed)
