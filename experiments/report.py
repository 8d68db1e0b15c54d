"""Writes the page of a result, and its picture, from the MLflow runs of a work directory."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from configs import UserError
from configs.atomic import write_atomically
from experiments.reporting.front import cost_of, read_records
from experiments.reporting.networks import trained_networks
from experiments.reporting.result_page import Result, result_page
from experiments.reporting.results import plot_results
from experiments.reporting.verified import VERIFIED_TABLE
from experiments.settings import load_config
from experiments.tracking.record import Record, read_record
from search.trials import TrialRecord
from search_space import SearchSpace

RESULTS = Path("docs/results")


def write_result(directory: Path, out: Path | None = None) -> Path:
    """Write ``NAME.md``, and ``NAME.png`` and ``NAME.json`` beside it; return the page.

    The picture is of the page, and the last file has the numbers behind both.

    All is read from the directory's MLflow store: what was not run, or not tracked, is left out,
    with a line that says which command gives it.

    Args:
        directory: A work directory, of a search or of another study on its supernet.
        out: The page; default is ``docs/results/NAME.md``.

    Raises:
        UserError: Nothing was tracked there, or no configuration.
    """
    with tempfile.TemporaryDirectory(prefix="evolute-report-") as folder:
        record = read_record(directory, Path(folder))
        file = record.artifacts / "config.yaml"
        if not file.exists():
            raise UserError(f"{directory}: its run in MLflow has no config.yaml")
        config = load_config(file)
        name = record.parent.name.replace("/", "-")
        page = out or RESULTS / f"{name}.md"
        picture = page.with_suffix(".png")
        front, trials = (_records(record, table) for table in ("front.csv", "trials.csv"))
        members = [each.architecture for each in front]
        networks = trained_networks(record.of_kind("retrain"), members)
        cost = cost_of(front) or "latency_ms"
        if front or networks:
            plot_results(networks, front, trials, cost, picture)
        result = Result(
            name=name,
            directory=_as_typed(directory),
            record=record,
            config=config,
            space=SearchSpace(config.space, config.plugins),
            front=front,
            trials=trials,
            finished=[r for r in _records(record, VERIFIED_TABLE) if r.state == "verified"],
            networks=networks,
            cost=cost,
            picture=picture.name,
        )
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(result_page(result), encoding="utf-8")
        write_atomically(page.with_suffix(".json"), json.dumps(_numbers(result)))
    return page


def _numbers(result: Result) -> dict[str, Any]:
    """Return what was measured of all trials, of the front, and of networks that were trained."""
    records = {"trials": result.trials, "verified": result.finished, "front": result.front}
    numbers: dict[str, Any] = {
        what: [
            {"number": r.number, "architecture": " ".join(r.architecture), "state": r.state}
            | {name: round(value, 6) for name, value in r.metrics.items()}
            for r in some
        ]
        for what, some in records.items()
    }
    return {**numbers, "retrained": [dataclasses.asdict(network) for network in result.networks]}


def _as_typed(directory: Path) -> Path:
    """Return a directory as a command names it; a page tells no folders of a machine."""
    return Path("runs") / directory.name if directory.is_absolute() else directory


def _records(record: Record, table: str) -> list[TrialRecord]:
    path = record.artifacts / "report" / table
    return read_records(path) if path.exists() else []
