"""Tracking with a real MLflow on SQLite, and with a tracking server that is not there."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.secrets import redact
from experiments.places import local_store
from experiments.tracking.journal import Journal
from experiments.tracking.model_registry import find_champion
from experiments.tracking.provenance import command_line, machine
from experiments.tracking.record import read_record
from experiments.tracking.store import local_uri, open_client
from experiments.tracking.tracker import Tracker, code_version, flatten
from experiments.tracking.uploader import upload
from experiments.ui import open_ui

EXPERIMENT = "tests"


def track(directory: Path, uri: str | None = None, **params: object) -> Tracker:
    return Tracker(
        directory, uri=uri, experiment=EXPERIMENT, run_name="digits", tags={"a": "b"}, params=params
    )


def runs_of(uri: str) -> dict[str, object]:
    """Every run of the experiment, by name."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.info.run_name for run in found}) == len(found), "a run appears twice"
    return {run.info.run_name: run for run in found}


def artifacts_of(uri: str, run_id: str, folder: str | None = None) -> set[str]:
    return {entry.path for entry in open_client(uri).list_artifacts(run_id, folder)}


@pytest.fixture
def dead_uri():
    """The address of a server that is not there: a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow's tables without a row; making them takes seconds, copying them nothing."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def work(tmp_path, empty_database):
    """A work directory in which nothing was tracked yet."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work directory with a parent run, two trials and artifacts; resumed once."""
    directory = tmp_path_factory.mktemp("tracking") / "run"
    outside = directory.parent / "picture.svg"
    outside.write_text("<svg/>")
    with track(directory, search={"trials": 2, "seeds": [1, 2]}, long="x" * 9000) as tracker:
        with tracker.child("trial-0", "trial", params={"layer.0": "inv7"}) as trial:
            trial.metrics({"accuracy": 97.5, "latency_ms": 1.25})
        for step in range(3):
            tracker.metrics({"hypervolume": step / 10}, step=step)
        tracker.artifact(outside, "pictures")
        outside.unlink()  # the journal has its own copy
        tracker.text("config/config.yaml", "name: digits\n")
        tracker.child("supernet", "supernet").metrics({"loss": 2.0}, step=0)
        assert tracker.flush()
        first_id = runs_of(local_uri(directory))["digits"].info.run_id
    with track(directory, search={"trials": 5, "seeds": [1, 2]}) as tracker:
        assert tracker.has_finished("trial-0") and not tracker.has_finished("trial-1")
        tracker.child("supernet", "supernet").metrics({"loss": 1.0}, step=1)
        long = {"best_latency_ms": 0.25791847592189554, "macs": 71000448}
        tracker.child("supernet", "supernet").metrics(long, step=1)
        tracker.child("trial-1", "trial").finish("FAILED")
        tracker.metrics({"hypervolume": 0.5, "broken": float("nan")}, step=3)
    return directory, first_id


def test_children_hang_below_one_parent_that_a_resumed_search_continues(finished):
    directory, first_id = finished
    runs = runs_of(local_uri(directory))
    assert set(runs) == {"digits", "trial-0", "trial-1", "supernet"}
    assert runs["digits"].info.run_id == first_id
    for name in ("trial-0", "trial-1", "supernet"):
        assert runs[name].data.tags["mlflow.parentRunId"] == first_id
    assert runs["trial-0"].data.tags["evolute.kind"] == "trial"
    assert runs["trial-0"].data.params == {"layer.0": "inv7"}
    assert runs["trial-0"].data.metrics == {"accuracy": 97.5, "latency_ms": 1.25}
    assert {name: run.info.status for name, run in runs.items()} == {
        "digits": "FINISHED",
        "trial-0": "FINISHED",
        "trial-1": "FAILED",
        "supernet": "FINISHED",
    }


def test_metrics_are_kept_by_step_and_nan_is_refused(finished):
    directory, run_id = finished
    client = open_client(local_uri(directory))
    history = client.get_metric_history(run_id, "hypervolume")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.5)]
    run = client.get_run(run_id)
    assert "broken" not in run.data.metrics
    assert run.data.tags["not_finite.broken"] == "nan at step 3"
    supernet = runs_of(local_uri(directory))["supernet"]
    losses = client.get_metric_history(supernet.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(0, 2.0), (1, 1.0)]
    assert supernet.data.metrics["best_latency_ms"] == 0.257918  # as people read it
    assert supernet.data.metrics["macs"] == 71000448


def test_parameters_are_flat_bounded_and_never_rewritten(finished):
    directory, run_id = finished
    run = open_client(local_uri(directory)).get_run(run_id)
    assert run.data.params["search.trials"] == "2"
    assert run.data.tags["changed.search.trials"] == "5"
    assert run.data.params["search.seeds"] == "[1, 2]"
    assert len(run.data.params["long"]) < 6000


def test_artifacts_arrive_even_when_the_file_is_gone_again(finished):
    directory, run_id = finished
    uri = local_uri(directory)
    assert artifacts_of(uri, run_id, "pictures") == {"pictures/picture.svg"}
    assert artifacts_of(uri, run_id, "config") == {"config/config.yaml"}
    assert list((directory / "mlartifacts").rglob("picture.svg"))


def test_the_same_journal_fills_another_store_and_twice_changes_nothing(finished, work):
    directory, _ = finished
    uri = f"sqlite:///{work / 'mlflow.db'}"
    assert upload(directory, uri) == sum(1 for _ in Journal(directory).read())
    assert upload(directory, uri) == 0
    (directory / "tracking.state.json").unlink()  # everything is uploaded once more
    assert upload(directory, uri) > 0
    runs = runs_of(uri)
    assert set(runs) == {"digits", "trial-0", "trial-1", "supernet"}
    history = open_client(uri).get_metric_history(runs["digits"].info.run_id, "hypervolume")
    assert len(history) == 4


def test_a_torn_last_line_is_left_out(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"event": "log", "run": "a"})
    with journal.path.open("a") as stream:
        stream.write('{"event": "log", "ru')
    assert [event["run"] for event, _ in journal.read()] == ["a"]
    Journal(tmp_path).append({"event": "log", "run": "b"})
    assert [event["run"] for event, _ in journal.read()] == ["a", "b"]


def test_a_dead_server_neither_slows_nor_kills_and_loses_nothing(work, dead_uri, caplog):
    with caplog.at_level(logging.WARNING, logger="evolute.tracking"):
        started = time.monotonic()
        tracker = track(work, dead_uri)
        for number in range(60):
            with tracker.child(f"trial-{number}", "trial", params={"choice": number}) as trial:
                trial.metrics({"accuracy": number})
        assert time.monotonic() - started < 15.0  # an attempt at the server would take 30
        started = time.monotonic()
        tracker.finish(timeout=20)
        assert time.monotonic() - started < 60.0
    reports = [r.getMessage() for r in caplog.records if "cannot be reached" in r.getMessage()]
    assert len(reports) == 1, "an outage is reported once"
    assert dead_uri in reports[0] and f"evolute sync {work}" in reports[0]
    with pytest.raises(UserError, match="cannot be reached"):
        upload(work)
    upload(work, local_uri(work))
    runs = runs_of(local_uri(work))
    assert len(runs) == 61
    assert runs["trial-59"].data.metrics == {"accuracy": 59.0}
    assert runs["trial-59"].info.status == "FINISHED"


def test_a_server_that_accepts_and_never_answers_does_not_hang_the_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = track(tmp_path / "run", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        tracker.finish(timeout=1.5)
        assert time.monotonic() - started < 25.0  # its silence would last 30


def test_an_artifact_that_cannot_be_uploaded_does_not_hold_up_the_numbers(work):
    with track(work) as tracker:
        (work / "gone.txt").write_text("soon gone")
        tracker.journal.append(
            {"event": "artifact", "run": tracker.run_id, "path": "never.txt", "folder": ""}
        )
        tracker.metrics({"accuracy": 1.0})
        assert tracker.flush()
        run = runs_of(local_uri(work))["digits"]
        assert run.data.metrics == {"accuracy": 1.0}


@pytest.mark.parametrize("uri", ["file:./mlruns", "localhost:5000", "./mlruns"])
def test_an_impossible_uri_is_refused_at_once(tmp_path, uri):
    with pytest.raises(UserError, match=r"tracking\.uri.*no tracking URI"):
        track(tmp_path, uri)


def test_passwords_stay_out_of_what_is_written(tmp_path):
    assert redact("postgresql://me:secret@db/x") == "postgresql://***@db/x"
    assert flatten({"search": {"storage": "mysql://u:pw@h/d"}}) == {
        "search.storage": "mysql://***@h/d"
    }
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        track(tmp_path, uri).finish(timeout=0.1)
    assert "secret" not in (tmp_path / "tracking.jsonl").read_text()
    with pytest.raises(UserError, match="password or token is not kept"):
        upload(tmp_path)


def test_an_exception_fails_the_run_and_ctrl_c_kills_it(tmp_path, dead_uri):
    with pytest.raises(KeyboardInterrupt), track(tmp_path, dead_uri) as tracker:
        with pytest.raises(ZeroDivisionError), tracker.child("trial-0", "trial"):
            _ = 1 / 0
        tracker.child("supernet", "supernet")
        raise KeyboardInterrupt
    events = [event for event, _ in Journal(tmp_path).read()]
    assert [e["status"] for e in events if e["event"] == "finish"] == ["FAILED", "KILLED", "KILLED"]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("search runs/photos --pick knee", "search runs/photos --pick knee"),
        ("train /home/someone/photos.yaml", "train photos.yaml"),
        ("train x --set data.root=/home/someone/cifar10", "train x --set data.root=cifar10"),
        ("train x --set data.root=../data", "train x --set data.root=../data"),
        ("train x --set tracking.uri=http://me:secret@host:5000", "train x --set tracking.uri=URI"),
        ("search x --address 10.0.0.1:6379", "search x --address ADDRESS"),
        ("measure resnet18 --device cuda:1", "measure resnet18 --device cuda:1"),
    ],
)
def test_a_command_is_kept_without_places(monkeypatch, typed: str, kept: str) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/evolute", *typed.split()])
    assert command_line() == f"evolute {kept}"
    monkeypatch.setattr("sys.argv", ["/somewhere/notebook.py", *typed.split()])
    assert command_line() == ""


def test_the_machine_is_described_without_its_name() -> None:
    found = machine()
    assert found["machine.cpu"] and int(found["machine.cores"]) >= 1
    assert socket.gethostname() not in str(found)


def test_flatten_and_code_version():
    config = {"stages": [{"width": 8}, {"width": 16}], "on": True, "none": None, "empty": {}}
    assert flatten(config) == {
        "stages.0.width": "8",
        "stages.1.width": "16",
        "on": "true",
        "none": "null",
        "empty": "{}",
    }
    assert code_version()["torch"].startswith("2.")


def model_folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir(parents=True)
    (folder / "architecture.yaml").write_text(f"choices: [{name}]\n")
    (folder / "weights.safetensors").write_bytes(name.encode())
    (folder / "optimizer.pt").write_bytes(b"never uploaded")
    return folder


def test_the_champion_moves_only_to_a_better_network(work):
    with track(work) as tracker:
        answers = []
        for name, validated in (("first", 90.0), ("worse", 89.0), ("equal", 90.0), ("best", 91.0)):
            with tracker.child(name, "retrain") as run:
                folder = model_folder(work, name)
                tested = 200 - validated  # decides nothing
                metrics = {"validation_accuracy": validated, "accuracy": tested}
                answers.append(run.register(folder, "hybrid", metrics))
        assert [(a.version, a.champion) for a in answers] == [
            (1, True),
            (2, False),
            (3, False),
            (4, True),
        ]
        client = open_client(local_uri(work))
        champion = find_champion(client, "hybrid")
        assert (champion.version, champion.tags["validation_accuracy"]) == (4, "91.0")
        assert champion.tags["accuracy"] == "109.0"
        assert client.get_model_version_by_alias("hybrid", "previous").version == 1
        assert "`champion`" in client.get_registered_model("hybrid").description
        best = runs_of(local_uri(work))["best"].info.run_id
        assert champion.source == f"runs:/{best}/model"
        assert artifacts_of(local_uri(work), best, "model") == {
            "model/architecture.yaml",
            "model/weights.safetensors",
        }
        with pytest.raises(UserError, match=r"weights\.safetensors missing"):
            tracker.register(work / "gone", "hybrid", {"accuracy": 99.0})
        with pytest.raises(UserError, match="model_name"):
            tracker.register(folder, "cpu:fast", {"accuracy": 99.0})


def test_only_networks_of_one_recipe_and_the_same_data_are_compared(work):
    """And none is promoted that a plain network of them dominates."""
    with track(work) as tracker:
        reasons = {}
        for name, conditions, plain, accuracy, latency in [
            ("first", "a", False, 70.0, 3.0),
            ("other data", "b", False, 90.0, 1.0),
            ("baseline", "a", True, 70.0, 2.0),
            ("dominated", "a", False, 69.0, 2.5),
            ("slower", "a", False, 71.0, 9.0),
        ]:
            with tracker.child(name, "retrain") as run:
                folder = model_folder(work, name)
                about = {"conditions": conditions, "plain": plain}
                (folder / "metrics.json").write_text(json.dumps(about))
                metrics = {"validation_accuracy": accuracy, "latency_ms": latency}
                answer = run.register(folder, "hybrid", metrics)
                reasons[name] = answer.reason
                assert answer.champion == (not answer.reason)
        assert reasons["first"] == reasons["baseline"] == reasons["slower"] == ""
        assert "version 1, of another recipe or other data" in reasons["other data"]
        assert reasons["dominated"] == "dominated by version 3, a plain network"
        client = open_client(local_uri(work))
        client.delete_registered_model_alias("hybrid", "champion")
        with tracker.child("dominated", "retrain") as run:  # not even where there is none
            metrics = {"validation_accuracy": 69.0, "latency_ms": 2.5}
            again = run.register(work / "dominated", "hybrid", metrics)
        assert not again.champion and find_champion(client, "hybrid") is None


def test_a_model_registered_while_the_server_was_away_is_registered_later(work, dead_uri):
    with track(work, dead_uri) as tracker:
        folder = model_folder(work, "late")
        assert tracker.register(folder, "hybrid", {"validation_accuracy": 80.0}, timeout=10) is None
    upload(work, local_uri(work))
    upload(work, local_uri(work))
    client = open_client(local_uri(work))
    assert [v.version for v in client.search_model_versions("name='hybrid'")] == [1]
    assert find_champion(client, "hybrid").version == 1


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as reply:
        return reply.read().decode()


def servers_on(port: str) -> list[str]:
    """The command lines of MLflow's processes for a port."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_text().replace("\0", " "))
    return [line for line in found if "mlflow" in line and f"--port {port} " in line]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_answers_on_loopback_and_a_signal_ends_it(finished, ending):
    directory, run_id = finished
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = (
            "import signal, sys; from experiments.ui import open_ui; "
            "signal.signal(signal.SIGINT, signal.default_int_handler); "  # tests in the background
            "open_ui(*sys.argv[1:2], port=%d)"
        )
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code % port, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            store, note, line = (process.stdout.readline() for _ in range(3))
            assert store == f"Store: {local_uri(directory)}\n"
            assert f"Port {port} is taken" in note
            address = re.search(r"http://127\.0\.0\.1:\d+", line).group()
            assert f"{address}/#/experiments/1/runs" in line
            assert get(f"{address}/health") == "OK"
            assert "<title>MLflow</title>" in get(address)
            artifact = f"get-artifact?path=config/config.yaml&run_uuid={run_id}"
            assert get(f"{address}/{artifact}") == "name: digits\n"
            if sys.platform == "linux":
                assert len(servers_on(address.rpartition(":")[2])) == 2
        finally:
            process.send_signal(ending)
            assert process.wait(timeout=30) == 0
    assert not servers_on(address.rpartition(":")[2])
    with pytest.raises(OSError):
        get(f"{address}/health")


def test_the_ui_names_the_runs_that_exist(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="evolute run quickstart"):
        open_ui("runs/nothing")
    directory, _ = finished
    with pytest.raises(UserError, match=f"runs that exist: {directory}"):
        open_ui(directory.parent / "nothing")


SEARCH = """
import sys
from pathlib import Path
from experiments.tracking.tracker import Tracker

directory = Path(sys.argv[1])
with Tracker(directory, uri=None, experiment="tests", run_name=directory.name, tags={},
             params={}) as tracker:
    for number in range(15):
        with tracker.child(f"trial-{number}", "trial", params={"layer_00": "inv7"}) as trial:
            trial.metrics({"accuracy": number})
    tracker.text("config.yaml", f"name: {directory.name}\\n")
"""


def test_two_searches_at_a_time_arrive_in_the_store_of_their_folder(tmp_path):
    """Which is not there when they begin."""
    runs = tmp_path / "runs"
    processes = [
        subprocess.Popen([sys.executable, "-c", SEARCH, str(runs / name)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in ("a", "b")
    ]  # fmt: skip
    for process in processes:
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0 and "Not everything" not in printed, printed
    assert sorted(path.name for path in runs.iterdir() if not path.name.startswith(".")) == [
        "a", "b", "mlartifacts", "mlflow.db",
    ]  # fmt: skip
    client = open_client(f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    names = Counter(run.info.run_name for run in found)
    assert names == {"a": 1, "b": 1, **{f"trial-{number}": 2 for number in range(15)}}
    assert {run.info.status for run in found} == {"FINISHED"}
    for name in ("a", "b"):  # each finds its own
        record = read_record(runs / name, tmp_path / f"of {name}")
        assert record.parent.name == name and len(record.children) == 15
        assert (record.artifacts / "config.yaml").read_text() == f"name: {name}\n"
    with pytest.raises(UserError, match="nothing was tracked"):
        read_record(runs / "c", tmp_path)
    assert upload(runs / "a") == 0
    (runs / "a" / "report").mkdir()
    (runs / "a" / "report" / "report.html").write_text("<html>")
    code = "import sys; from experiments.ui import open_ui; open_ui(sys.argv[1], port=5600)"
    server = subprocess.Popen([sys.executable, "-u", "-c", code, str(runs)],
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        said = [server.stdout.readline() for _ in range(3)]
    finally:
        server.terminate()
        server.wait()
    assert said[0] == f"Store: sqlite:///{runs / 'mlflow.db'}\n"
    assert said[1] == f"Report: {runs / 'a' / 'report' / 'report.html'}\n"
    assert f"/#/experiments/{experiment.experiment_id}/runs" in said[2]


def test_which_store_a_directory_has(tmp_path):
    assert local_store(tmp_path / "runs" / "a") == tmp_path / "runs" / "mlflow.db"
    assert local_store(tmp_path / "runs" / "a" / "studies" / "s") == tmp_path / "runs" / "mlflow.db"
    assert local_store(tmp_path / "a") == tmp_path / "a" / "mlflow.db"
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "mlflow.db").touch()  # of an earlier version
    for directory in ("a", "a/studies/s"):
        assert local_store(tmp_path / "runs" / directory) == tmp_path / "runs" / "a" / "mlflow.db"


def test_two_processes_share_a_directory_without_doubling_runs(work):
    first, second = track(work), track(work)
    assert second.run_id == first.run_id
    threads = [
        threading.Thread(target=lambda t=t, n=n: t.child(n, "retrain").finish())
        for t, n in ((first, "left"), (second, "right"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.finish()
    second.finish()
    runs = runs_of(local_uri(work))
    assert set(runs) == {"digits", "left", "right"}
    state = json.loads((work / "tracking.state.json").read_text())
    assert state["local"] == {"offset": Journal(work).size, "run_id": runs["digits"].info.run_id}
