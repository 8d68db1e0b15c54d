"""Joining Ray; the searches on it are in `tests/search/test_run.py`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from configs.errors import UserError

ROOT = Path(__file__).parents[3]


def test_wrong_address_is_refused_at_once() -> None:
    from search.executors.ray_session import ray_session

    session = ray_session("127.0.0.1:1", workers=1, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(UserError, match=r"'127\.0\.0\.1:1': no Ray cluster"), session:
        pass


SEARCH = """
import os, sys, time
from search import run_search
from search_space import ChoiceSpace
def evaluate(architecture):
    time.sleep(600 if architecture == ("c",) * 8 else 0.2)
    return {"accuracy": 50.0, "latency_ms": 1.0}
def on_trial(record, progress):
    print(record.number, flush=True)
run_search(ChoiceSpace([("a", "b", "c")] * 8), evaluate, {"accuracy": "maximize"}, trials=5000,
           workers=2, on_trial=on_trial, progress=False, start=[("c",) * 8] if HANGS else ())
"""


@pytest.fixture(scope="module")
def searching(tmp_path_factory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A search on a local Ray in a process of its own, after its first trials."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # short: sockets have short names
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    script = f"HANGS = False\n{SEARCH}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    yield process, folder
    process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def family_of(folder: Path) -> dict[int, str]:
    """Processes of a search, known by the folder for temporary files in their environment."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command[:120]
    return found


def listening(processes: Iterable[int]) -> dict[str, set[int]]:
    """Addresses on which processes listen, from the kernel's tables."""
    sockets = defaultdict(set)
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                        sockets[found[1]].add(process)
    addresses = defaultdict(set)
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:  # LISTEN
                addresses[words[1].split(":")[0]] |= sockets[words[9]]
    return addresses


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_local_ray_listens_on_loopback_only(searching) -> None:
    family = family_of(searching[1])
    assert any("raylet" in command for command in family.values())
    addresses = listening(family)
    assert addresses
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    elsewhere = {a: [family[p] for p in found] for a, found in addresses.items()
                 if a not in loopback}  # fmt: skip
    assert not elsewhere
    token = Path.home() / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_driver_leaves_nothing_behind(searching) -> None:
    process, folder = searching
    sessions = list((folder / "ray").glob("session_2*"))
    assert len(sessions) == 1 and len(family_of(folder)) > 4
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while (left := family_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    assert not list((folder / "ray").glob("session_*"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of Unix")
def test_ctrl_c_ends_a_search_although_a_worker_hangs(tmp_path) -> None:
    """The handler of the search, and then Ray's end; what hangs is in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"HANGS = True\n{SEARCH}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(4):  # the other worker goes on meanwhile
        assert process.stdout.readline()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=180)
    assert "KeyboardInterrupt" in error
    assert time.monotonic() - begun < 40  # Ray's shutdown; what hangs would last 600
