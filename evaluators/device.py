"""What a number was measured on, and who may use that device right now.

The *fingerprint* names everything that changes a latency; two values may be compared only when
their fingerprints are equal. The *device lock* keeps a stop-watch and other work apart on one host:
many processes may compute (``shared_device``), or one may measure (``exclusive_device``).
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import platform
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from evaluators.runtime import runtime_version
from search_space.kernels import active_backend

try:
    import fcntl
except ImportError:  # Windows: no lock; measure on an idle machine there
    fcntl = None  # type: ignore[assignment]

Fingerprint = dict[str, str | int]


def fingerprint(
    input_shape: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    runtime: str = "eager",
    dtype: str = "float32",
    channels_last: bool = False,
    threads: int = 1,
) -> Fingerprint:
    """Everything a latency depends on besides the network, as a flat JSON-able mapping.

    ``input_shape`` is (B, C, H, W). Keys: device, driver, torch, runtime, runtime_version, threads,
    dtype, memory_format, batch, input, involution.
    """
    device = torch.device(device)
    batch, *image = input_shape
    return {
        "device": device_name(device),
        "driver": _driver(device),
        "torch": torch.__version__,
        "runtime": runtime,
        "runtime_version": runtime_version(runtime),
        "threads": threads,
        "dtype": dtype,
        "memory_format": "channels_last" if channels_last else "contiguous",
        "batch": batch,
        "input": "x".join(str(size) for size in image),
        "involution": active_backend(device),
    }


def fingerprint_key(fingerprint: Fingerprint) -> str:
    """A short name of a fingerprint (12 hexadecimal digits), equal on every machine and run."""
    text = json.dumps(fingerprint, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def device_name(device: str | torch.device) -> str:
    """``NVIDIA H100 80GB HBM3`` or ``Intel(R) Xeon(R) Processor 6/207/2, 2 cores``.

    Virtual machines hide the CPU's product name, so family/model/stepping are part of it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} {platform.processor() or platform.machine()}"
    info = _cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    numbers = [info[key] for key in ("cpu family", "model", "stepping") if key in info]
    return f"{name} {'/'.join(numbers)}".strip() + f", {os.cpu_count()} cores"


@contextlib.contextmanager
def exclusive_device(device: str | torch.device) -> Iterator[None]:
    """Hold the device alone while timing: waits until every other holder on this host is done.

    May be nested in itself. Inside ``shared_device`` of the same thread it would wait for itself
    for ever, so that raises RuntimeError.
    """
    with _hold(torch.device(device), exclusive=True):
        yield


@contextlib.contextmanager
def shared_device(device: str | torch.device) -> Iterator[None]:
    """Hold the device together with others while computing anything that is not timed."""
    with _hold(torch.device(device), exclusive=False):
        yield


def host_folder() -> Path:
    """Where the processes of this user on this host meet: locks, and the reference's times."""
    folder = Path(tempfile.gettempdir()) / f"evolute-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


# Which locks this thread holds, and whether exclusively. flock knows open files, not threads:
# without this a nested call would block on its own lock.
_held = threading.local()


@contextlib.contextmanager
def _hold(device: torch.device, exclusive: bool) -> Iterator[None]:
    name = _lock_name(device)
    held: dict[tuple[int, str], bool] = _held.__dict__.setdefault("modes", {})
    key = os.getpid(), name  # a forked child inherits the record, not the right
    if key in held:
        if exclusive and not held[key]:
            raise RuntimeError(
                f"exclusive_device({str(device)!r}) inside shared_device({str(device)!r}): "
                "leave the shared block first, the two would wait for each other"
            )
        yield
        return
    with _file_lock(name, exclusive):
        held[key] = exclusive
        try:
            yield
        finally:
            del held[key]


@contextlib.contextmanager
def _file_lock(name: str, exclusive: bool) -> Iterator[None]:
    """A readers-writer lock from two flocks; the kernel drops both when the process dies.

    Everyone passes the turnstile before entering the room. A waiting writer stands in it, so no new
    reader can enter and the writer's turn comes as soon as the present readers have left.
    """
    if fcntl is None:
        yield
        return
    folder = host_folder()
    with open(folder / f"{name}.turnstile", "a") as turnstile, open(folder / name, "a") as room:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Not left to close(): a child forked meanwhile holds a copy of the open file.
            fcntl.flock(room, fcntl.LOCK_UN)


def _lock_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    # Ray shows every worker its GPU as cuda:0, so the index says nothing across processes.
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return "none"
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text()) if version.exists() else None
    return f"{found.group() if found else 'unknown'}, CUDA {torch.version.cuda}"


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many CPU threads inside PyTorch's operators, and afterwards as many as before.

    Ray leaves every worker with one, whatever it owns: the number is always set, never inherited.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
