"""Searches with real executors and a real database."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from configs.errors import Stopped, UserError
from search import Goal, SearchProgress, SearchResult, TrialRecord, run_search
from search_space import Architecture, ChoiceSpace

NAMES = ("conv", "inv", "skip")
COST = {"conv": 3.0, "inv": 2.0, "skip": 0.5}
OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
SPACE = ChoiceSpace([NAMES] * 5)
DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for all searches of this file: `run_search` uses the one that runs."""
    from search.executors.ray_session import ray_session

    send_this_module()
    with ray_session(None, workers=2, cpus_per_worker=1, gpus_per_worker=0):
        yield


def send_this_module() -> None:
    """Workers get these evaluators by value: importing this file would load torch in each."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def evaluate(architecture: Architecture) -> dict[str, float]:
    latency = sum(COST[name] for name in architecture)
    return {"latency_ms": latency, "accuracy": 50 + 4 * latency - 0.1 * latency**2}


def note(file: Path, line: str) -> None:
    """Appends a line; whole even with several writers."""
    with file.open("a") as stream:
        stream.write(line + "\n")


def architectures(result: SearchResult) -> list[Architecture]:
    return [record.architecture for record in result.trials]


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2", "tpe", "evolution", "random"])
def test_every_sampler_finds_a_front(sampler: str) -> None:
    result = run_search(SPACE, evaluate, OBJECTIVES, trials=12, sampler=sampler, seed=1)
    assert len(set(architectures(result))) == 12
    assert all(record.metrics == evaluate(record.architecture) for record in result.trials)
    assert result.front
    assert all(record in result.trials for record in result.front)
    assert len(result.hypervolume) == 12
    assert result.hypervolume == sorted(result.hypervolume)
    assert result.hypervolume[-1] > 0


def test_same_seed_same_trials() -> None:
    first, second, other = (
        run_search(SPACE, evaluate, OBJECTIVES, trials=30, seed=seed) for seed in (1, 1, 2)
    )
    assert architectures(first) == architectures(second)
    assert architectures(first) != architectures(other)


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2", "tpe", "evolution", "random"])
def test_no_worker_and_one_worker_make_the_same_trials(sampler: str) -> None:
    here, there = (
        run_search(SPACE, evaluate, OBJECTIVES, trials=25, sampler=sampler, workers=workers)
        for workers in (0, 1)
    )
    assert architectures(here) == architectures(there)
    assert [record.metrics for record in here.trials] == [r.metrics for r in there.trials]
    assert [r.architecture for r in here.front] == [r.architecture for r in there.front]


def test_without_workers_the_evaluator_is_the_callers_own_and_resumes(tmp_path: Path) -> None:
    calls = []

    def note_call(architecture: Architecture) -> dict[str, float]:
        calls.append((os.getpid(), architecture))
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C, in the middle of an evaluation
            time.sleep(1)
        return evaluate(architecture)

    storage = tmp_path / "study.db"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        run_search(SPACE, note_call, OBJECTIVES, trials=12, workers=0, storage=storage)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = run_search(SPACE, note_call, OBJECTIVES, trials=12, workers=0, storage=storage)
    assert {pid for pid, _ in calls} == {os.getpid()}
    assert len(result.trials) == 12 and {r.state for r in result.trials} == {"complete"}
    assert calls[8][1] == calls[7][1]  # the interrupted one, first of all
    assert len(calls) == 13


def test_a_search_leaves_the_process_as_it_was() -> None:
    code = """
import logging, os, signal
import optuna, torch
from search import run_search
from search_space import ChoiceSpace
def state():
    levels = {name: logging.getLogger(name).level for name in ("", "ray", "optuna", "sqlalchemy")}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    generator = torch.get_rng_state().sum().item()
    return dict(os.environ), levels, handlers, generator, optuna.logging.get_verbosity()
before = state()
for workers in (0, 1):
    run_search(ChoiceSpace([("a", "b", "c")] * 3), lambda a: {"n": a.count("b")},
               {"n": "maximize"}, trials=5, workers=workers)
    names = "environment levels handlers torch optuna".split()
    for name, one, other in zip(names, before, state()):
        assert one == other, (workers, name, one, other)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


class OnceLoaded:
    """Counts how often it is unpickled: once a worker, whatever the number of trials."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        note(self.file, f"loaded by {os.getpid()}")

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        time.sleep(0.05)
        return {**evaluate(architecture), "pid": float(os.getpid())}


def test_workers_keep_their_evaluator(tmp_path: Path) -> None:
    seen: list[tuple[TrialRecord, SearchProgress]] = []
    result = run_search(
        SPACE,
        OnceLoaded(tmp_path / "log"),
        OBJECTIVES,
        trials=40,
        workers=2,
        on_trial=lambda record, progress: seen.append((record, progress)),
    )
    loads = (tmp_path / "log").read_text().splitlines()
    pids = {record.metrics["pid"] for record in result.trials}
    assert len(set(loads)) == len(loads)  # never twice in a process
    assert len(pids) <= len(loads) <= 3
    assert [record for record, _ in seen] == result.trials
    assert [progress.done for _, progress in seen] == list(range(1, 41))
    assert seen[-1][1].front_size == len(result.front)
    assert seen[-1][1].hypervolume == pytest.approx(result.hypervolume[-1])
    assert seen[0][1].seconds_left is None  # starting workers says nothing about trials
    assert seen[-1][1].seconds_left == 0


class CheapFirst:
    """Notes each payment for the expensive metric."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        metrics = evaluate(architecture)
        if metrics["latency_ms"] > 7.0:
            return {"latency_ms": metrics["latency_ms"]}
        note(self.file, "/".join(architecture))
        return metrics


@pytest.mark.parametrize("sampler", ["surrogate", "nsga2", "tpe"])
def test_constraint_rejects_and_saves_the_expensive_metric(tmp_path: Path, sampler: str) -> None:
    storage = tmp_path / "study.db"
    result = run_search(
        SPACE,
        CheapFirst(tmp_path / "paid"),
        OBJECTIVES,
        trials=25,
        sampler=sampler,
        constraints={"latency_ms": 7.0},
        storage=storage,
    )
    states = Counter(record.state for record in result.trials)
    assert set(states) == {"complete", "infeasible"}
    assert len((tmp_path / "paid").read_text().splitlines()) == states["complete"]
    for record in result.trials:
        assert (record.state == "infeasible") == (sum(COST[n] for n in record.architecture) > 7.0)
    assert all(record.metrics["latency_ms"] <= 7.0 for record in result.front)
    study = optuna.load_study(study_name="search", storage=result.storage)
    assert {trial.number for trial in study.best_trials} == {r.number for r in result.front}


class Troubled:
    """Fails in every way an evaluator can, by its first layer."""

    def __call__(self, architecture: Architecture) -> dict:
        if architecture[0] == "raises":
            raise RuntimeError("out of\nluck")
        if architecture[0] == "noisy":
            from evaluators import TooNoisy

            raise TooNoisy("spread 40 %")
        if architecture[0] == "nan":
            return {"accuracy": float("nan"), "latency_ms": 1.0}
        if architecture[0] == "missing":
            return {"latency_ms": 1.0}
        if architecture[0] == "number":
            return 3.0  # type: ignore[return-value]
        return {"accuracy": 90.0, "latency_ms": 1.0}


def test_what_goes_wrong_is_a_state_and_not_the_end(tmp_path: Path) -> None:
    kinds = ("fine", "raises", "noisy", "nan", "missing", "number")
    space = ChoiceSpace([kinds])
    storage = tmp_path / "study.db"
    result = run_search(space, Troubled(), OBJECTIVES, trials=50, storage=storage)
    found = {record.architecture[0]: record for record in result.trials}
    assert set(found) == set(kinds)
    assert "nothing new: 6 of 50" in result.note
    assert {name: record.state for name, record in found.items()} == {
        **dict.fromkeys(kinds, "failed"),
        "fine": "complete",
        "noisy": "unmeasurable",
    }
    assert re.fullmatch(r"RuntimeError: out of luck \(test_run\.py:\d+\)", found["raises"].message)
    assert "spread 40 %" in found["noisy"].message
    assert "'accuracy' is nan" in found["nan"].message
    assert "'accuracy' is missing" in found["missing"].message
    assert "returned float" in found["number"].message
    again = run_search(space, Troubled(), OBJECTIVES, trials=50, storage=storage)
    assert again.trials == result.trials


class Broken:
    def __init__(self, corrected: bool = False) -> None:
        self.corrected = corrected

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        if not self.corrected:
            raise FileNotFoundError("no supernet.pt")
        return evaluate(architecture)


def test_broken_evaluator_ends_the_search_and_leaves_no_trace(tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    arguments = {"trials": 20, "storage": storage}
    with pytest.raises(UserError, match=r"6 failures.*FileNotFoundError: no supernet\.pt"):
        run_search(SPACE, Broken(), OBJECTIVES, **arguments)
    with pytest.raises(UserError, match=r"3 failures.*FileNotFoundError: no supernet\.pt"):
        run_search(ChoiceSpace([NAMES]), Broken(), OBJECTIVES, trials=20)
    result = run_search(SPACE, Broken(corrected=True), OBJECTIVES, **arguments)
    assert [record.state for record in result.trials] == ["complete"] * 20


class KillsItsWorker:
    """Dies on the first visit of one architecture, and on each visit of another."""

    def __init__(self, folder: Path, once: Architecture, always: Architecture) -> None:
        self.folder, self.once, self.always = folder, once, always

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        marker = self.folder / "visited"
        if architecture == self.always or (architecture == self.once and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(architecture)


def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    once, always = ("conv",) * 5, ("inv",) * 5
    evaluator = KillsItsWorker(tmp_path, once, always)
    result = run_search(SPACE, evaluator, OBJECTIVES, trials=8, start=[("skip",) * 5, once, always])
    found = {record.architecture: record for record in result.trials}
    assert len(found) == 8
    assert found[once].state == "complete"
    assert found[always].state == "failed"
    assert "died three times" in found[always].message
    assert Counter(record.state for record in result.trials) == {"complete": 7, "failed": 1}


def test_failing_start_points_do_not_count_as_a_broken_evaluator(tmp_path: Path) -> None:
    """Networks that people name may all be broken in one way; the others work."""
    start = [("slow", *rest) for rest in itertools.product(("conv", "inv"), repeat=3)][:7]

    def fails_for_slow(architecture: Architecture) -> dict[str, float]:
        if architecture[0] == "slow":
            raise ValueError("not for me")
        return {"latency_ms": 1.0, "accuracy": 50.0}

    space = ChoiceSpace([("slow", "conv"), *[("conv", "inv")] * 3])
    result = run_search(space, fails_for_slow, OBJECTIVES, trials=12, workers=0, start=start)
    assert Counter(record.state for record in result.trials)["failed"] >= 7
    assert {record.architecture for record in result.trials} >= set(start)
    assert any(record.state == "complete" for record in result.trials)


def dying_at_start(folder: Path, times: int) -> type:
    """A worker whose process dies before it has evaluated anything, so many times."""
    from search.executors.ray_worker import ArchitectureTrial

    class DiesAtStart(ArchitectureTrial):
        def setup(self, config, **parameters) -> None:
            if len(list(folder.iterdir())) < times:
                (folder / str(os.getpid())).touch()
                os._exit(1)
            super().setup(config, **parameters)

    return DiesAtStart


def test_a_worker_that_never_ran_says_nothing_about_an_architecture(
    tmp_path: Path, monkeypatch
) -> None:
    from search.executors import ray as executor

    for name, times in (("some", 5), ("all", 1000)):
        (tmp_path / name).mkdir()
        dying = dying_at_start(tmp_path / name, times)
        monkeypatch.setattr(executor, "ArchitectureTrial", dying)
        monkeypatch.setattr(executor, "STARTS", 6 if name == "some" else 3)
        monkeypatch.setattr(executor, "STARTS_S", 0.0)
        if name == "some":
            result = run_search(ChoiceSpace([NAMES]), evaluate_one, OBJECTIVES, trials=3)
            assert [record.state for record in result.trials] == ["complete"] * 3
            assert len(list((tmp_path / name).iterdir())) == 5
        else:
            with pytest.raises(UserError, match="workers can't be started: 3 in a row"):
                run_search(ChoiceSpace([NAMES]), evaluate_one, OBJECTIVES, trials=3)


def evaluate_one(architecture: Architecture) -> dict[str, float]:
    return {"latency_ms": COST[architecture[0]], "accuracy": 50.0}


class Hangs:
    """Never answers about one architecture."""

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        if architecture[0] == "skip":
            threading.Event().wait()
        return evaluate(architecture)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_that_hangs_ends_as_failed(workers: int) -> None:
    space = ChoiceSpace([("conv", "inv", "skip")])
    result = run_search(space, Hangs(), OBJECTIVES, trials=3, workers=workers, timeout_s=2)
    found = {record.architecture[0]: record for record in result.trials}
    assert {name: found[name].state for name in found} == {
        "conv": "complete", "inv": "complete", "skip": "failed",
    }  # fmt: skip
    assert "not done after 2 s, the limit of timeout_s" in found["skip"].message


class Racer:
    """Stops where a member of the front is as fast, and better by more than a point."""

    def __call__(self, architecture: Architecture, front: dict) -> dict[str, float]:
        metrics = {**evaluate(architecture), "rivals": float(len(front))}
        number = Goal(OBJECTIVES).rival("accuracy", metrics, front)
        if number is not None and front[number]["accuracy"] > metrics["accuracy"] + 1:
            partly = {**metrics, "accuracy": metrics["accuracy"] - 0.5}
            raise Stopped(f"trial {number} is better", partly)
        return metrics


RACE = ChoiceSpace([("conv", "inv", "slow", "skip")] * 4)


def slow_or_fast(architecture: Architecture) -> dict[str, float]:
    """`slow` costs most and brings least, so most architectures are behind the front."""
    cost, gain = {**COST, "slow": 5.0}, {"conv": 4.0, "inv": 3.5, "slow": 1.0, "skip": 0.0}
    return {
        "latency_ms": sum(cost[name] for name in architecture),
        "accuracy": 50 + sum(gain[name] for name in architecture),
    }


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "evolution"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_race_stops_what_cannot_reach_the_front(
    tmp_path: Path, monkeypatch, sampler: str, workers: int
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "evaluate", slow_or_fast)
    storage, first = tmp_path / "study.db", ("slow",) * 4
    arguments = {"trials": 40, "workers": workers, "sampler": sampler, "storage": storage}
    result = run_search(
        RACE, Racer(), OBJECTIVES, **arguments, racing=True, start=[("conv",) * 4, first]
    )
    states = Counter(record.state for record in result.trials)
    assert set(states) == {"complete", "stopped"} and states["stopped"] > 5
    found = {record.architecture: record for record in result.trials}
    assert found[first].state == "complete" and found[first].metrics["rivals"] == 0
    every = [TrialRecord(n, a, slow_or_fast(a), "complete") for n, a in enumerate(found)]
    wanted = {record.architecture for record in Goal(OBJECTIVES).front(every)}
    assert {record.architecture for record in result.front} == wanted  # nobody is missing
    for record in result.trials:
        full = slow_or_fast(record.architecture)["accuracy"]
        if record.state == "stopped":
            number = int(re.fullmatch(r"trial (\d+) is better", record.message)[1])
            assert result.trials[number].metrics["accuracy"] > full + 1
            assert result.trials[number].metrics["latency_ms"] <= record.metrics["latency_ms"]
            assert record.metrics["accuracy"] == full - 0.5
    again = run_search(RACE, Racer(), OBJECTIVES, **arguments, racing=True)
    assert again.trials == result.trials and again.front == result.front


class Slow:
    """Notes each evaluation that begins, and takes a while."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self.seconds = file, seconds

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        note(self.file, "/".join(architecture))
        time.sleep(self.seconds)
        return evaluate(architecture)


def search_slowly(folder: Path, seconds: float) -> SearchResult:
    send_this_module()
    return run_search(
        SPACE,
        Slow(folder / "begun", seconds),
        OBJECTIVES,
        trials=24,
        workers=2,
        storage=folder / "study.db",
    )


def begun(folder: Path) -> list[str]:
    file = folder / "begun"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_search_resumes(tmp_path: Path, number: int) -> None:
    """The driver dies in the middle; the same call finishes, and repeats nothing finished."""
    tests, root = Path(__file__).parent, Path(__file__).parents[2]
    code = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(root)!r}]\n"
        "import pathlib, test_run\n"
        f"test_run.search_slowly(pathlib.Path({str(tmp_path)!r}), 0.2)\n"
    )
    errors = tmp_path / "stderr"  # not a pipe: Ray's processes outlive a killed driver
    with errors.open("w") as stream:
        driver = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=stream)
    deadline = time.monotonic() + 200
    while len(begun(tmp_path)) < 9 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(number)
    driver.wait(timeout=100)
    if number == signal.SIGTERM:
        assert "KeyboardInterrupt" in errors.read_text()
    time.sleep(0.5)  # for workers that outlive a killed driver by a moment

    first = begun(tmp_path)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/study.db")
    finished = ["/".join(trial.params.values()) for trial in study.trials]
    assert 5 <= len(finished) < 24
    interrupted = set(first) - set(finished)
    assert interrupted

    result = search_slowly(tmp_path, 0.0)
    assert len(set(architectures(result))) == len(result.trials) == 24
    assert {record.state for record in result.trials} == {"complete"}
    later = begun(tmp_path)[len(first) :]
    assert not set(later) & set(finished)
    assert interrupted <= set(later)
    assert len(later) == 24 - len(finished)
    assert search_slowly(tmp_path, 0.0).trials == result.trials
    assert len(begun(tmp_path)) == len(first) + len(later)


def test_longer_budget_continues_the_same_study(tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    short = run_search(SPACE, evaluate, OBJECTIVES, trials=12, storage=storage)
    long = run_search(SPACE, evaluate, OBJECTIVES, trials=20, storage=storage)
    assert long.trials[:12] == short.trials
    assert len(set(architectures(long))) == 20
    assert long.reference == short.reference
    assert long.hypervolume[:12] == pytest.approx(short.hypervolume)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'nsga2'"):
        run_search(SPACE, evaluate, OBJECTIVES, trials=5, sampler="nsga")
    with pytest.raises(UserError, match=r"objectives\.accuracy: 'up'"):
        run_search(SPACE, evaluate, {"accuracy": "up"}, trials=5)
    with pytest.raises(UserError, match="trials: 0"):
        run_search(SPACE, evaluate, OBJECTIVES, trials=0)
    with pytest.raises(UserError, match="workers: -1"):
        run_search(SPACE, evaluate, OBJECTIVES, trials=5, workers=-1)
    with pytest.raises(UserError, match="layer 0: 'sk'"):
        run_search(SPACE, evaluate, OBJECTIVES, trials=5, start=[("sk",) * 5])
    with pytest.raises(UserError, match="gpus_per_worker is 4"):
        run_search(SPACE, evaluate, OBJECTIVES, trials=5, gpus_per_worker=4)


def test_example_in_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import itertools
    import json

    table = {
        " ".join(architecture): {
            "latency_ms": sum(COST[name] for name in architecture) / 3,
            "accuracy": 50.0 + sum(COST[name] for name in architecture),
        }
        for architecture in itertools.product(("conv3", "inv7", "skip"), repeat=4)
        for COST in [{"conv3": 3.0, "inv7": 2.0, "skip": 0.5}]
    }
    (tmp_path / "table.json").write_text(json.dumps(table))
    code = DOCS.read_text().split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 10
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(compile(code, "extending.md", "exec"), {"__name__": "__main__"})
    finally:
        os.chdir(before)
    assert "'latency_ms'" in capsys.readouterr().out
