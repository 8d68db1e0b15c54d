"""What a finished run came to, kept to be said again at once. Imports nothing that is slow to load.

``finished.json`` has the text, the configuration, and size and time of the files that the text is
about. Where any of them is not as it was, it counts for nothing, and the run goes its usual way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from configs import Config
from configs.atomic import write_atomically
from configs.kept import read_or_none
from configs.secrets import without_secrets
from experiments.places import RUNS, local_store
from experiments.workspace import Workspace, file_mode, what_matters


def keep_finished(
    config: Config, workspace: Workspace, networks: Iterable[Path], said: str
) -> None:
    """Keep what a run said in the end, which has nothing left to do or to upload.

    Not where the study is in a database elsewhere: no file shows whether it is as it was.

    Args:
        networks: Folders of the retrained networks.
    """
    if config.search.storage:
        return
    here = workspace.directory
    files = {os.path.relpath(f, here): _state(f) for f in _files(config, workspace, networks)}
    values = {"run": _run(config, workspace), "files": files, "said": said}
    write_atomically(workspace.finished, json.dumps(values, indent=1), file_mode(config))


def what_was_said(config: Config, out: Path | None = None) -> str | None:
    """Return what the run of a configuration said in the end; None where there is something to do.

    Args:
        out: The work directory; default is ``runs/NAME``.
    """
    workspace = Workspace(out or Path(RUNS) / config.name)
    try:
        kept = read_or_none(workspace.finished, _checked, "the run looks at everything again")
        if kept is None or kept["run"] != _run(config, workspace):
            return None
        if not (config.tracking.uri or local_store(workspace.directory).exists()):
            return None  # all is uploaded again
        same = all(_state(workspace.directory / f) == state for f, state in kept["files"].items())
    except OSError:  # something is missing, or may not be read
        return None
    return kept["said"] if same else None


def _checked(values: Any) -> dict[str, Any]:
    return {"run": values["run"], "files": dict(values["files"]), "said": str(values["said"])}


def _run(config: Config, workspace: Workspace) -> Any:
    """Return what decides a result and how it is called, as it comes back from JSON."""
    values = {**without_secrets(what_matters(config)), "directory": str(workspace.directory)}
    return json.loads(json.dumps(values))


def _files(config: Config, workspace: Workspace, networks: Iterable[Path]) -> Iterator[Path]:
    """What a run reads or writes when it is given again, and plugins."""
    yield from (workspace.weights, workspace.study, workspace.journal)
    yield from map(Path, config.plugins)
    for folder in (workspace.report, *networks):
        yield from (file for file in folder.iterdir() if file.is_file())


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]
