"""The stop-watch on a machine whose drift is known, then on this one; and the device lock."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from configs.errors import UserError
from evaluators import (
    TooNoisy,
    exclusive_device,
    fingerprint,
    fingerprint_key,
    measure_latency,
    shared_device,
)
from evaluators.latency import Interleaved, measure_interleaved, until_quiet
from evaluators.runtime import deployed
from evaluators.stopwatch import Stopwatch, wall_stopwatch


@pytest.fixture(autouse=True)
def own_host_folder(tmp_path, monkeypatch) -> None:
    """The tests have their own locks and their own reference time: this is no quiet machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Machine:
    """A computer on which work of 1 ms takes ``slowness(now in ms)`` ms."""

    def __init__(self, slowness: Callable[[float], float]) -> None:
        self.now, self.slowness = 0.0, slowness

    def stopwatch(self, work_ms: float) -> Stopwatch:
        def run() -> float:
            spent = work_ms * self.slowness(self.now)
            self.now += spent
            return spent

        return run


def measure(machine: Machine, work_ms: float, **options) -> Interleaved:
    return measure_interleaved(
        machine.stopwatch(work_ms),
        machine.stopwatch(1.0),
        **{"repeats": 60, "max_spread": 0.2, **options},
    )


def test_drift_of_the_machine_cancels() -> None:
    machine = Machine(lambda now: 1.0 + 0.6 * now / 1000)  # 60 % slower within a second
    measured = measure(machine, 3.0, reference_ms=1.0)
    assert measured.raw_median_ms > 3.6
    assert statistics.median(measured.corrected_ms) == pytest.approx(3.0, rel=0.005)
    spread = np.ptp(measured.corrected_ms) / 3.0
    assert spread < 0.03


def test_without_a_given_unit_the_value_is_in_units_of_this_measurement() -> None:
    measured = measure(Machine(lambda now: 1.25), 3.0)
    assert measured.reference_ms == pytest.approx(1.25)
    assert statistics.median(measured.corrected_ms) == pytest.approx(3.75)


def test_blocks_across_which_the_reference_jumps_are_rejected() -> None:
    machine = Machine(lambda now: 1.5 if now % 200 < 100 else 1.0)
    measured = measure(machine, 2.0, reference_ms=1.0)
    assert len(measured.corrected_ms) < 60 * 4  # of 60 blocks of 4 calls some are missing
    low, middle, high = np.percentile(measured.corrected_ms, [10, 50, 90])
    assert (low, middle, high) == pytest.approx((2.0, 2.0, 2.0), rel=0.03)


def test_a_restless_machine_is_too_noisy() -> None:
    rng = np.random.default_rng(0)
    slowness = itertools.chain.from_iterable([factor] * 3 for factor in rng.uniform(1, 2, 10_000))
    machine = Machine(lambda now: next(slowness))
    with pytest.raises(TooNoisy, match=r"drifted by more than 10% across \d+ of 60 blocks"):
        measure(machine, 2.0)


def test_a_network_that_scatters_is_too_noisy() -> None:
    times = itertools.cycle([2.0, 3.0])
    with pytest.raises(TooNoisy, match=r"spread of \d+ calls is 0.33, more than max_spread 0.2"):
        measure_interleaved(lambda: next(times), lambda: 1.0, repeats=60, max_spread=0.2)


def test_slow_networks_are_called_as_often_as_asked() -> None:
    calls = []

    def slow() -> float:
        calls.append(None)
        return 500.0

    measured = measure_interleaved(slow, lambda: 1.0, repeats=7, max_spread=0.2)
    assert len(measured.corrected_ms) == 7
    assert len(calls) == 2 + 2 * 7  # warm-up for a second, then one uncounted call per block


def test_retries_pause_longer_and_longer() -> None:
    result = Interleaved((1.0,), 1.0, 1.0)
    outcomes = iter([TooNoisy("first"), TooNoisy("second"), result])

    def attempt() -> Interleaved:
        outcome = next(outcomes)
        if isinstance(outcome, TooNoisy):
            raise outcome
        return outcome

    pauses: list[float] = []
    assert until_quiet(attempt, retries=2, pause=pauses.append) is result
    assert pauses == [0.5, 1.0]


def test_after_all_retries_every_reason_is_told() -> None:
    def attempt() -> Interleaved:
        raise TooNoisy("spread 0.7")

    with pytest.raises(TooNoisy, match=r"in 2 attempts: spread 0.7; spread 0.7"):
        until_quiet(attempt, retries=1, pause=lambda seconds: None)


def network(depth: int, width: int = 32) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


fork = multiprocessing.get_context("fork")

BUSY = {"max_spread": 10.0}  # the tests may share the machine; they look at medians only


def test_twice_as_deep_is_slower_and_the_same_is_the_same() -> None:
    shallow, deep = network(4), network(8)
    values = [measure_latency(shallow, (1, 3, 32, 32), **BUSY) for _ in range(2)]
    slower = measure_latency(deep, (1, 3, 32, 32), **BUSY)
    assert values[0].median_ms == pytest.approx(values[1].median_ms, rel=0.25)
    assert 1.3 < slower.median_ms / values[0].median_ms < 3.0
    assert values[0].reference_ms == slower.reference_ms  # one unit for all
    assert slower.p10_ms <= slower.median_ms <= slower.p90_ms
    assert slower.spread >= 0 and slower.repeats >= 30


def test_a_given_unit_scales_the_value() -> None:
    model = network(2)
    one = measure_latency(model, (1, 3, 16, 16), reference_ms=1.0, **BUSY)
    thousand = measure_latency(model, (1, 3, 16, 16), reference_ms=1000.0, **BUSY)
    assert 500 < thousand.median_ms / one.median_ms < 2000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to choose a core")
def test_calls_interrupted_by_another_process_are_repeated() -> None:
    cores = os.sched_getaffinity(0)
    rival = fork.Process(target=spin, daemon=True)
    stopwatch = wall_stopwatch(lambda: sum(range(100_000)))
    try:
        os.sched_setaffinity(0, {min(cores)})
        rival.start()  # on the same core: half of the time is its own
        times = [stopwatch() for _ in range(200)]
    finally:
        os.sched_setaffinity(0, cores)
        rival.kill()
        rival.join()
    assert np.percentile(times, 95) < 2 * np.percentile(times, 10)


def spin() -> None:
    while True:
        pass


def test_the_network_is_left_alone_and_threads_are_restored() -> None:
    seen = []

    class Spy(nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.get_num_threads(), x.dtype, self.training))
            return x

    model = nn.Sequential(Spy(), network(1, width=8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = measure_latency(
            model, (4, 3, 8, 8), dtype="bfloat16", channels_last=True, threads=1, **BUSY
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {(1, torch.bfloat16, False)}
    assert model.training and all(torch.equal(model.state_dict()[k], before[k]) for k in before)
    assert result.fingerprint["batch"] == 4
    assert result.fingerprint["memory_format"] == "channels_last"


@pytest.mark.parametrize("runtime", ["eager", "compile", "onnxruntime"])
def test_every_runtime_gives_a_number(runtime: str) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    result = measure_latency(network(1, width=8), (1, 3, 8, 8), runtime=runtime, **BUSY)
    assert 0 < result.median_ms < 100
    assert result.fingerprint["runtime"] == runtime


def test_compiled_code_is_not_given_up_after_many_networks() -> None:
    """torch.compile keeps at most eight versions of one forward function, then runs eagerly."""
    from evaluators.runtime import prepare

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).sin()

    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (2, 3, 4, 5):
            prepare(Net(width), torch.ones(1, width), "compile")()


def test_training_branches_are_fused_on_a_copy() -> None:
    from timm.models.byobnet import MobileOneBlock

    block = nn.Sequential(MobileOneBlock(8, 8, kernel_size=3)).eval()
    fused = deployed(block)
    images = torch.randn(2, 8, 6, 6)
    assert len(list(fused.parameters())) < len(list(block.parameters()))
    assert torch.allclose(fused(images), block(images), atol=1e-5)


def test_unknown_runtime_and_dtype() -> None:
    with pytest.raises(UserError, match="runtime: 'tensorrt' is unknown; choose one of eager"):
        measure_latency(network(1), (1, 3, 8, 8), runtime="tensorrt")
    with pytest.raises(UserError, match="dtype: 'int8' is unknown"):
        measure_latency(network(1), (1, 3, 8, 8), dtype="int8")


def test_fingerprints_differ_in_what_changes_the_time() -> None:
    changes = [
        {},
        {"threads": 2},
        {"dtype": "bfloat16"},
        {"channels_last": True},
        {"runtime": "compile"},
    ]
    keys = [fingerprint_key(fingerprint((1, 3, 32, 32), **change)) for change in changes]
    keys.append(fingerprint_key(fingerprint((2, 3, 32, 32))))
    keys.append(fingerprint_key(fingerprint((1, 3, 64, 64))))
    assert len(set(keys)) == len(keys)
    assert keys[0] == fingerprint_key(fingerprint((1, 3, 32, 32)))


# --- the device lock, across processes ---------------------------------------------------------


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
