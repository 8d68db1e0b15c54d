"""The device lock, across processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time

import pytest

from evaluators import exclusive_device, shared_device

pytest.importorskip("fcntl")
fork = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_host_folder(tmp_path, monkeypatch) -> None:
    """The tests have their own locks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def hold(lock, name: str, log, leave) -> None:
    with lock("cpu"):
        log.put(name)
        leave.wait(60)


def start(lock, name: str, log):
    leave = fork.Event()
    process = fork.Process(target=hold, args=(lock, name, log, leave), daemon=True)
    process.start()
    return process, leave


def test_exclusive_keeps_everyone_out_until_it_is_left() -> None:
    log = fork.Queue()
    with exclusive_device("cpu"), exclusive_device("cpu"):  # nesting is allowed
        processes = [start(shared_device, "reader", log), start(exclusive_device, "writer", log)]
        time.sleep(0.3)
        assert log.empty()
    for _, leave in processes:
        leave.set()
    assert {log.get(timeout=20), log.get(timeout=20)} == {"reader", "writer"}
    for process, _ in processes:
        process.join(20)


def test_shared_is_shared_and_a_waiting_writer_goes_before_new_readers() -> None:
    log = fork.Queue()
    with shared_device("cpu"):
        first, leave_first = start(shared_device, "first reader", log)
        assert log.get(timeout=20) == "first reader"  # at the same time as this process
        writer, leave_writer = start(exclusive_device, "writer", log)
        time.sleep(0.3)
        late, leave_late = start(shared_device, "late reader", log)
        time.sleep(0.3)
        assert log.empty()
        leave_first.set()
    assert log.get(timeout=20) == "writer"
    leave_writer.set()
    assert log.get(timeout=20) == "late reader"
    leave_late.set()
    for process in (first, writer, late):
        process.join(20)


def test_a_killed_holder_holds_nothing() -> None:
    log = fork.Queue()
    process, _ = start(exclusive_device, "holder", log)
    assert log.get(timeout=20) == "holder"
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    with exclusive_device("cpu"):
        pass


def test_exclusive_inside_shared_is_refused() -> None:
    with (
        shared_device("cpu"),
        pytest.raises(RuntimeError, match="inside shared_device"),
        exclusive_device("cpu"),
    ):
        pass
