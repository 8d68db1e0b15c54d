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
from evaluators.metric import by_registration
from experiments.reporting.account import Account
from experiments.reporting.course import plot_counting, plot_course
from experiments.reporting.plots import plot_architectures, plot_front
from experiments.reporting.search_page import search_html
from experiments.reporting.tables import Prediction
from experiments.reporting.verified import (
    VERIFIED_TABLE,
    VerifiedNetwork,
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
    account: Account | None = None,
) -> list[Path]:
    """Write the report of a search and return its files, anew each time.

    ``report.html`` has all of it; ``front.csv``, ``trials.csv``, and pictures: ``front.png``,
    ``architectures.png``, ``course.png``, ``counting.png`` where costs were counted. For a space
    with networks ``front/INDEX/`` has ``architecture.yaml`` and its picture for each member. Where
    networks were verified, ``verified.csv``; the front is then theirs.

    Args:
        predicted: Accuracies of members if they were trained on their own.
        networks: All that were trained alone.
        account: What the page says beside the numbers.
    """
    account = account or Account()
    picture, table = directory / "front.png", directory / VERIFIED_TABLE
    files = [
        _write_csv(result.front, directory / "front.csv", "index"),
        _write_csv(result.trials, directory / "trials.csv", "number"),
        plot_architectures(result.front, space, directory / "architectures.png"),
    ]
    table.unlink(missing_ok=True)
    if networks:
        files += [
            write_verified(networks, table),
            plot_verified_front(result, networks, picture, account.verdict),
        ]
    else:
        files.append(plot_front(result, picture, predicted, account.verdict))
    drawn = dict(
        filter(
            None,
            [
                plot_course(result, directory / "course.png"),
                plot_counting(result, directory / "counting.png"),
            ],
        )
    )
    files += drawn.values()
    page = directory / "report.html"
    files.append(search_html(result, space, page, account, networks, drawn))
    (directory / "front.html").unlink(missing_ok=True)  # what earlier versions wrote
    if isinstance(space, SearchSpace):
        files += _write_front(result.front, space, directory)
    return files


def _write_front(front: Sequence[TrialRecord], space: SearchSpace, directory: Path) -> list[Path]:
    """Write one folder per member; those of an earlier, larger front must not stay behind."""
    new = directory / ".front"
    shutil.rmtree(new, ignore_errors=True)
    for index, record in enumerate(front):
        save_architecture(new / str(index) / "architecture.yaml", space, record.architecture)
        plot_architectures([record], space, new / str(index) / "architecture.png")
    shutil.rmtree(directory / "front", ignore_errors=True)
    os.replace(new, directory / "front")
    files = ("architecture.yaml", "architecture.png")
    return [directory / "front" / str(i) / name for i in range(len(front)) for name in files]


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
