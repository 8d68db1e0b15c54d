"""``evolute status``: what is done in a work directory, what runs, and the command that goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from configs import Config, UserError
from configs.holders import lock_holders
from experiments.console import as_duration
from experiments.ownership import LOCK
from experiments.reporting.front import read_front
from experiments.retrained import Retrained, read_retrained
from experiments.settings import load_config
from experiments.stand_alone import METRICS_FILE
from experiments.tracking.journal import Journal
from experiments.tracking.uploader import store_name
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace
from search.storage import storage_url
from search.study import stored_studies

if TYPE_CHECKING:
    from rich.table import Table

    from search.study import StoredStudy


def status_table(directory: Path) -> Table:
    """Return one line for each part of the work; reads files only.

    Args:
        directory: A work directory, or that of another study on its supernet.

    Raises:
        UserError: Nothing of ours is there.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    workspace = Workspace(directory)
    if not workspace.config.exists():
        raise UserError(f"{directory}: no work directory; `evolute run quickstart` makes one")
    config = load_config(workspace.config)
    table = Table(title=str(directory), title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    study = _study(config, workspace)
    lines = {
        "running": _running(workspace),
        "supernet": _supernet(config, workspace),
        "search": _search(config, study),
        "verification": _verification(workspace),
        "front": _front(workspace),
        "retrained": "\n".join(_retrained(workspace)) or "none",
        "MLflow": _tracking(config, workspace),
        "next": next_command(config, workspace, study),
    }
    for what, said in lines.items():
        table.add_row(what, said)
    return table


def next_command(config: Config, workspace: Workspace, study: StoredStudy | None) -> str:
    """Return the command that continues the work of a directory."""
    given, out = workspace.config, workspace.root
    if not workspace.weights.exists():
        return f"evolute train {given} --out {out}"
    named = f" --study {workspace.directory.name}" if workspace.root != workspace.directory else ""
    done = 0 if study is None else len(study.records)
    if done < config.search.trials or not (workspace.report / "front.csv").exists():
        return f"evolute search {given} --out {out}{named}"
    return f"evolute retrain --search {workspace.directory} --pick best"


def _running(workspace: Workspace) -> str:
    lock = workspace.root / LOCK
    holders = lock_holders(lock) if lock.exists() else ""
    return holders if holders.startswith("process") else "nothing"


def _supernet(config: Config, workspace: Workspace) -> str:
    history = TrainingHistory(workspace.history)
    took = "" if history.seconds is None else f", {as_duration(history.seconds)}"
    if workspace.weights.exists():
        return f"trained{took}"
    if not workspace.history.exists():
        return "not begun"
    return f"{history.epochs} of {config.train.epochs} epochs{took}"


def _study(config: Config, workspace: Workspace) -> StoredStudy | None:
    name = workspace.study_name(config.name)
    studies = stored_studies(storage_url(config.search.storage or workspace.study))
    return next((study for study in studies if study.name == name), None)


def _search(config: Config, study: StoredStudy | None) -> str:
    if study is None:
        return f"0 of {config.search.trials} trials"
    counts = Counter(record.state for record in study.records)
    states = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{len(study.records)} of {config.search.trials} trials ({states})"


def _verification(workspace: Workspace) -> str:
    done = len(list(workspace.verified.glob(f"*/rung-*/*/{METRICS_FILE}")))
    going = len(list(workspace.verified.glob("*/rung-*/*/checkpoint.pt")))
    return f"{done} trainings done" + (f", {going} begun" if going else "")


def _front(workspace: Workspace) -> str:
    if not (workspace.report / "front.csv").exists():
        return "none yet"
    front = read_front(workspace.report)
    return f"{len(front)} networks, {workspace.report}"


def _retrained(workspace: Workspace) -> Iterator[str]:
    for folder in sorted(workspace.retrained.glob("*-????????")):
        network = read_retrained(folder)
        yield f"{folder.name}: {_seeds(folder) if network is None else _result(network)}"


def _result(network: Retrained) -> str:
    latency = network.metrics.get("latency_ms")
    at = "" if latency is None else f" at {latency:.3g} ms"
    return f"{network.accuracy_text} % test{at}, {len(network.seeds)} seed(s)"


def _seeds(folder: Path) -> str:
    done = len(list(folder.glob(f"seed-*/{METRICS_FILE}")))
    going = len(list(folder.glob("seed-*/checkpoint.pt")))
    return f"{done} seed(s) done, {going} begun"


def _tracking(config: Config, workspace: Workspace) -> str:
    journal = Journal(workspace.directory)
    if not journal.size:
        return "nothing was tracked"
    done, every = journal.uploaded(store_name(config.tracking.uri)), _count(journal)
    if done >= journal.size:
        return f"all {every} events are uploaded"
    pending = _count(journal, done)
    return f"{pending} of {every} events are not uploaded: evolute sync {workspace.directory}"


def _count(journal: Journal, offset: int = 0) -> int:
    return sum(1 for _ in journal.read(offset))
