"""``evolute ui``: the MLflow UI on the store of a work directory, on this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from configs.errors import UserError
from configs.secrets import hide
from experiments.places import DATABASE, RUNS
from experiments.tracking.journal import Journal
from experiments.tracking.store import check_uri, import_mlflow, local_uri, open_client
from experiments.tracking.uploader import upload
from experiments.tracking.view import COMPARED, comparison_page, comparison_tag, runs_page

START_SECONDS = 120.0  # a cold start on a loaded machine; it takes about five


def open_ui(
    place: Path | str,
    port: int = 5000,
    host: str = "127.0.0.1",
    say: Callable[[str], object] = print,
) -> None:
    """Serve the MLflow UI for a work directory or a store until Ctrl-C.

    What a work directory has in its journal and not yet in its local store is uploaded first: a
    search whose server was away can be looked at too.

    Args:
        place: A work directory (``runs/NAME``), a folder of those, or a database URI; a tracking
            server has its own UI, so for its URI the address is all that is said.
        port: The next free one is taken where it is busy.
        host: Loopback unless said otherwise.
        say: What prints a line for the user.

    Raises:
        UserError: There is nothing to show, or the UI does not start.
    """
    uri = _store_of(place, say)
    if uri.startswith(("http://", "https://")):
        say(f"The tracking server has its own UI: {hide(uri)}")
        return
    say(f"Store: {hide(uri)}")
    for report in _reports(Path(place)):
        say(f"Report: {report}")
    free = free_port(host, port)
    if free != port:
        say(f"Port {port} is taken; using {free}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server as Ctrl-C does
    with _start_server(uri, host, free) as server:  # waits for its end
        try:
            _wait_until_healthy(server, f"http://{host}:{free}/health")
            home, name = f"http://{host}:{free}", _experiment(Path(place))
            if front := _front_page(uri, Path(place)):
                say(f"Its front, compared: {home}{front}")
            say(f"MLflow UI: {home}{_runs_page(uri, name)}  (Ctrl-C ends it)")
            server.wait()
        except KeyboardInterrupt:
            say("")
        finally:
            server.terminate()  # MLflow passes it on to its worker


def _store_of(place: Path | str, say: Callable[[str], object]) -> str:
    """Return the URI of the store to show."""
    if "://" in str(place):
        check_uri(str(place))
        return str(place)
    directory = Path(place)
    journal = Journal(directory)
    if not (journal.size or (directory / DATABASE).exists()):
        raise UserError(f"{directory}: nothing was tracked here; {_runs_that_exist(directory)}")
    if journal.uploaded("local") < journal.size:
        try:
            upload(directory, local_uri(directory))
        except UserError as error:
            say(f"Showing what is there already: {error}")
    return local_uri(directory)


def _reports(directory: Path) -> list[Path]:
    """Return the pages of a work directory and its studies, or of those in a folder."""
    report = "report/report.html"
    places = (report, f"studies/*/{report}", f"*/{report}", f"*/studies/*/{report}")
    return [file for place in places for file in sorted(directory.glob(place))]


def _experiment(directory: Path) -> str:
    """Return the name of the experiment in which a work directory was tracked; empty of none."""
    events = Journal(directory).read() if directory.is_dir() else ()
    return next((event["experiment"] for event, _ in events if "experiment" in event), "")


def _runs_page(uri: str, name: str) -> str:
    """Return the path of the page with the runs of an experiment, or of the only one of ours."""
    found = [e for e in open_client(uri).search_experiments() if e.name != "Default"]
    found = [e for e in found if e.name == name] or found
    return runs_page(found[0].experiment_id) if len(found) == 1 else ""


def _front_page(uri: str, directory: Path) -> str:
    """Return the path of the page that compares the front of a work directory; empty for none.

    Of a folder of those, or a store, it is that of the last search. Its members as they were
    verified, or as they were searched where nothing was.
    """
    client = open_client(uri)
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    query = "tags.front != ''"
    found = client.search_runs(experiments, query, max_results=1000) if experiments else []
    parents = [run.data.tags["mlflow.parentRunId"] for run in found]  # the newest first
    if directory.is_dir() and (journal := Journal(directory)).size:
        parents = [parent for parent in parents if journal.is_of(parent)]
    members = [run for run in found if run.data.tags["mlflow.parentRunId"] in parents[:1]]
    verified = [run for run in members if run.data.tags["evolute.kind"] == "verify"]
    front = verified or members
    if len(front) < 2:
        return ""
    experiment, parent = front[0].info.experiment_id, parents[0]
    kind = front[0].data.tags["evolute.kind"]
    layers = sorted(key for key in front[0].data.params if key.startswith("layer_"))
    metrics = [name for name in COMPARED if all(name in run.data.metrics for run in front)]
    client.set_experiment_tag(experiment, *comparison_tag(parent, kind, layers, metrics))
    return comparison_page(experiment, parent)


def _runs_that_exist(directory: Path) -> str:
    folders = {directory.parent, Path(RUNS)}
    tracked = sorted(
        str(path.parent) for folder in folders for path in folder.glob("*/tracking.jsonl")
    )
    if not tracked:
        return "and there are no runs under runs/ yet: `evolute run quickstart` makes one"
    return "runs that exist: " + ", ".join(tracked)


def free_port(host: str, first: int) -> int:
    """Return the first port from ``first`` on that nobody listens on.

    Raises:
        UserError: A hundred ports are taken.
    """
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise UserError(f"--port {first}: no free port from {first} to {first + 99} on {host}")


def _start_server(uri: str, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server with one worker and no job runners: 2 processes instead of 15."""
    import_mlflow()  # for the environment it sets
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--timeout-graceful-shutdown 5"]  # seconds for open requests
    # The URI goes the way on which no other user of the machine can read it.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(
        f"the MLflow server did not start (exit code {server.poll()}); "
        "`mlflow server --help` should work in this environment"
    )
