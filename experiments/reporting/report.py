"""The files that a search leaves: tables, pictures, and one folder per member of the front."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from configs.atomic import write_atomically
from evaluators.metrics import by_registration
from experiments.reporting.pages import front_html
from experiments.reporting.plots import plot_architectures, plot_front
from experiments.reporting.tables import Prediction
from experiments.reporting.verified import (
    VERIFIED_TABLE,
    VerifiedNetwork,
    as_verified,
    write_verified,
)
from experiments.reporting.verified_plot import plot_verified_front
from search.trials import SearchResult, TrialRecord
from search_space import Architecture, ChoiceSpace, SearchSpace, save_architecture


def write_report(
    result: SearchResult,
    space: ChoiceSpace,
    directory: Path,
    predicted: Mapping[Architecture, Prediction] = MappingProxyType({}),
    networks: Sequence[VerifiedNetwork] = (),
) -> list[Path]:
    """Write the report of a search and return its files, anew each time.

    ``front.csv``, ``trials.csv``, ``front.png``, ``front.html``, ``architectures.png``, and for a
    space with networks ``front/INDEX/architecture.yaml`` for each member of the front. Where
    networks were verified, ``verified.csv``; the front is then theirs.

    Args:
        predicted: Accuracies of members if they were trained on their own.
        networks: All that were trained alone.
    """
    picture, page, table = (
        directory / "front.png",
        directory / "front.html",
        directory / VERIFIED_TABLE,
    )
    files = [
        _write_csv(result.front, directory / "front.csv", "index"),
        _write_csv(result.trials, directory / "trials.csv", "number"),
        plot_architectures(result.front, space, directory / "architectures.png"),
    ]
    table.unlink(missing_ok=True)
    if networks:
        files += [
            write_verified(networks, table),
            plot_verified_front(result, networks, picture),
            front_html(as_verified(result, networks), space, page),
        ]
    else:
        files += [plot_front(result, picture, predicted), front_html(result, space, page)]
    if isinstance(space, SearchSpace):
        files += _write_front(result.front, space, directory)
    return files


def _write_front(front: Sequence[TrialRecord], space: SearchSpace, directory: Path) -> list[Path]:
    """Write one folder per member; those of an earlier, larger front must not stay behind."""
    new = directory / ".front"
    shutil.rmtree(new, ignore_errors=True)
    for index, record in enumerate(front):
        save_architecture(new / str(index) / "architecture.yaml", space, record.architecture)
    shutil.rmtree(directory / "front", ignore_errors=True)
    os.replace(new, directory / "front")
    return [directory / "front" / str(i) / "architecture.yaml" for i in range(len(front))]


def _write_csv(records: Sequence[TrialRecord], path: Path, first: str) -> Path:
    """Write one line per record: number (or index), state, metrics, seconds and architecture."""
    numbers = ["index", "number"] if first == "index" else ["number"]
    found = {name for record in records for name in record.metrics}
    columns = [*numbers, "state", *by_registration(found), "seconds", "architecture", "message"]
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
