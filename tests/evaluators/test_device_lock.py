"""The device lock, across processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from functools import partial

import pytest
import torch
from spaces import random_images, random_labels, small_space
from trainings import FixedBatches, new_trainer

from configs.errors import TooNoisy
from evaluators import (
    count_macs,
    device_lock,
    exclusive_device,
    measure_accuracy,
    peak_memory_mb,
    recalibrate,
    shared_device,
)
from experiments.devices import hold_in_step
from search_space import build_network
from supernet import fit

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
    assert {log.get(timeout=120), log.get(timeout=120)} == {"reader", "writer"}
    for process, _ in processes:
        process.join(20)


def test_shared_is_shared_and_a_waiting_writer_goes_before_new_readers() -> None:
    log = fork.Queue()
    with shared_device("cpu"):
        first, leave_first = start(shared_device, "first reader", log)
        assert log.get(timeout=120) == "first reader"  # at the same time as this process
        writer, leave_writer = start(exclusive_device, "writer", log)
        time.sleep(0.3)
        late, leave_late = start(shared_device, "late reader", log)
        time.sleep(0.3)
        assert log.empty()
        leave_first.set()
    assert log.get(timeout=120) == "writer"
    leave_writer.set()
    assert log.get(timeout=120) == "late reader"
    leave_late.set()
    for process in (first, writer, late):
        process.join(20)


def test_a_killed_holder_holds_nothing() -> None:
    log = fork.Queue()
    process, _ = start(exclusive_device, "holder", log)
    assert log.get(timeout=120) == "holder"
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    with exclusive_device("cpu"):
        pass


def test_who_waits_long_says_for_whom_and_gives_up_in_the_end(monkeypatch, caplog) -> None:
    monkeypatch.setattr(device_lock, "NOTICE_S", 0.2)
    monkeypatch.setattr(device_lock, "LIMIT_S", 1.0)
    log = fork.Queue()
    process, leave = start(exclusive_device, "holder", log)
    assert log.get(timeout=120) == "holder"
    told = rf"'cpu' was held by process {process.pid}\b.*for 1 s"
    with pytest.raises(TooNoisy, match=told), shared_device("cpu"):
        raise AssertionError("two have the device")
    (record,) = caplog.records
    holder = f"held by process {process.pid} ("  # and its command
    assert record.getMessage().startswith(f"Waiting for the device 'cpu', which is {holder}")
    leave.set()
    process.join(20)
    with exclusive_device("cpu"):
        pass


def test_a_wait_ends_with_a_signal_whose_handler_raises() -> None:
    log = fork.Queue()
    process, leave = start(exclusive_device, "holder", log)
    assert log.get(timeout=120) == "holder"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a shell's job: ignored
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), shared_device("cpu"):
        pass
    assert time.monotonic() - begun < 20
    signal.signal(signal.SIGINT, before)
    leave.set()
    process.join(20)


def progress_beside_a_timer(work, steps: list) -> tuple[int, int]:
    """Start work in a thread while the device is held exclusively.

    Returns how many steps it made in half a second of that, and how many in the end.
    """
    thread = threading.Thread(target=work)
    with exclusive_device("cpu"):
        thread.start()
        time.sleep(0.5)
        during = len(steps)
    thread.join(60)
    return during, len(steps)


def test_a_training_waits_while_something_is_timed_and_lets_a_timer_in() -> None:
    steps: list[float] = []
    trainer = new_trainer("alone", epochs=60)

    def train() -> None:
        fit(
            trainer,
            FixedBatches(),
            on_step=lambda *_: steps.append(time.monotonic()),
            during=partial(hold_in_step, torch.device("cpu")),
        )

    assert progress_beside_a_timer(train, steps) == (0, 300)
    steps.clear()
    trainer.step = 0
    thread = threading.Thread(target=train)
    thread.start()
    while len(steps) < 5:
        time.sleep(0.001)
    with exclusive_device("cpu"):  # gets its turn between two steps
        begun = len(steps)
        time.sleep(0.2)
        assert len(steps) <= begun + 1 < 300  # one may just have ended
    thread.join(60)


@pytest.mark.parametrize("work", ["accuracy", "calibration", "macs", "memory"])
def test_everything_that_computes_waits_while_something_is_timed(work: str) -> None:
    network = build_network(small_space(), ("conv3",) * 4)
    batches = [(random_images(), random_labels())]
    compute = {
        "accuracy": lambda: measure_accuracy(network, batches),
        "calibration": lambda: recalibrate(network, batches),
        "macs": lambda: count_macs(network.to("meta"), (1, 1, 8, 8)),
        "memory": lambda: peak_memory_mb(network, (1, 1, 8, 8)),
    }[work]
    done: list[str] = []

    def run() -> None:
        compute()
        done.append(work)

    assert progress_beside_a_timer(run, done) == (0, 1)


def test_processes_that_wait_for_one_another_hold_a_common_device_once(tmp_path) -> None:
    torch.multiprocessing.spawn(hold_as_rank, (str(tmp_path),), nprocs=2)


def hold_as_rank(rank: int, folder: str) -> None:
    tempfile.tempdir = folder
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2
    )
    if rank == 1:
        hold = hold_in_step(torch.device("cpu"))
        with hold, exclusive_device("cpu"):  # it holds nothing, or this would be refused
            pass
    else:
        with (
            hold_in_step(torch.device("cpu")),
            pytest.raises(RuntimeError, match="inside shared_device"),
            exclusive_device("cpu"),
        ):
            pass
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_exclusive_inside_shared_is_refused() -> None:
    with (
        shared_device("cpu"),
        pytest.raises(RuntimeError, match="inside shared_device"),
        exclusive_device("cpu"),
    ):
        pass
