"""A Ray to evaluate on: the one that runs, a cluster, or a quiet one of this process alone."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.job_config import JobConfig

from configs.errors import UserError
from search.executors import ray_sweeper
from search.executors.process import process_unchanged
from search.executors.ray_sweeper import MARK

OBJECT_STORE_BYTES = 256 * 2**20  # instead of a third of the memory; it holds the evaluator only
CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# Tune's files and messages repeat what the study and our own progress say. Set for the time of a
# search only.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher says how many; see `StudySearcher`
}

LOOK_S = 1.0

Workers = int | Literal["auto"]


@contextlib.contextmanager
def ray_session(
    address: str | None, workers: Workers, cpus_per_worker: float, gpus_per_worker: float
) -> Iterator[bool]:
    """Join a quiet Ray: the caller's if one is running, that at `address`, or a local one.

    Only what was started or joined here is left again at the end; whether it was, is yielded.

    Raises:
        UserError: No cluster at `address`, or none of its nodes has what one worker needs.
    """
    owned = not ray.is_initialized()
    with contextlib.ExitStack() as started:
        if owned:
            started.callback(_read_environment)
        started.enter_context(process_unchanged())
        os.environ.update(QUIET)
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        if owned and address is None:
            wanted = 0 if workers == "auto" else round(workers * cpus_per_worker)
            started.enter_context(_local_ray(max(os.cpu_count() or 1, wanted)))
        elif address is not None and owned:
            _join_ray(address)
            started.callback(ray.shutdown)
        _protect_token()
        _check_resources({"CPU": cpus_per_worker, "GPU": gpus_per_worker})
        yield owned


def _read_environment() -> None:
    """Let Ray's native part read the environment again, as it is now.

    A local Ray switches to tokens, in the environment and there. If only the environment were
    restored, this process would refuse what a cluster without tokens says: no worker would start.
    """
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _local_ray(cpus: int) -> Iterator[None]:
    """Run a Ray of this process alone: on the loopback interface, and gone without a trace."""
    with _on_loopback(), _swept() as sweep:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **_options(),
        )
        node = ray._private.worker._global_node
        assert node is not None  # Ray runs
        sweep(node.get_session_dir_path())
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let all parts of Ray that are started in the block listen on the loopback interface only.

    Ray binds to it where a node's address is a loopback one, which it makes sure it never is under
    Linux, and always is under Windows and macOS. This switch is for the latter; its name is older.
    """
    os.environ[CLUSTER_SWITCH] = "0"  # for processes that are started from here
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _swept() -> Iterator[Callable[[str], None]]:
    """Give what names a session's folder to a process that removes what is left in the end.

    It waits for this process to end, however that happens; see `search.executors.ray_sweeper`.
    """
    mark = os.environ[MARK] = uuid.uuid4().hex
    sweeper = subprocess.Popen(
        [sys.executable, ray_sweeper.__file__, mark], stdin=subprocess.PIPE, start_new_session=True
    )
    assert sweeper.stdin is not None

    def sweep(folder: str) -> None:
        assert sweeper.stdin is not None
        sweeper.stdin.write(folder.encode() + b"\n")
        sweeper.stdin.flush()

    try:
        yield sweep
    finally:
        sweeper.stdin.close()
        sweeper.wait()


def places(cpus: float, gpus: float) -> int:
    """Return for how many workers the cluster has room now, if nobody else uses it; one at least.

    Asked many times a second, it looks again once a second.
    """
    now = time.monotonic()
    if now - _looked.get((cpus, gpus), (-math.inf, 0))[0] > LOOK_S:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needed = [(k, each) for k, each in (("CPU", cpus), ("GPU", gpus)) if each] or [("CPU", 1)]
        fit = (min(int(node.get(kind, 0) / each) for kind, each in needed) for node in nodes)
        _looked[cpus, gpus] = now, max(sum(fit), 1)
    return _looked[cpus, gpus][1]


_looked: dict[tuple[float, float], tuple[float, int]] = {}  # when, and how many there were


def _protect_token() -> None:
    """Let nobody else read the token that Ray makes readable for all."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    with contextlib.suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _join_ray(address: str) -> None:
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **_options())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"address {address!r}: no Ray cluster can be joined there ({reason}). Start one with "
            "`ray start --head`. One that has a token wants RAY_AUTH_MODE=token in the environment "
            "here, and the same ~/.ray/auth_token on every machine"
        ) from error


def _options() -> dict[str, Any]:
    # Workers look for modules where this process does, whatever folder it was started from.
    search_path = [os.path.abspath(folder) for folder in sys.path if os.path.isdir(folder or ".")]
    return {
        "job_config": JobConfig(_py_driver_sys_path=search_path),
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }


def _check_resources(needed: dict[str, float]) -> None:
    """Ray waits for ever for what it has not got, so that is refused here."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= n for kind, n in needed.items()) for node in nodes):
        return
    for kind, number in needed.items():
        most = max(node.get(kind, 0) for node in nodes)
        if most < number:
            key = f"{kind.lower()}s_per_worker"
            raise UserError(
                f"{key} is {number:g}, but no machine of the cluster has more than {most:g}"
            )
    raise UserError(f"no machine of the cluster has {needed} together")
