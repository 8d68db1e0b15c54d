"""Small files that a power cut left empty or full of something else: made again, or refused."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from spaces import small_config
from trainings import one_program

from configs import Config, UserError
from configs.atomic import remove_abandoned, replacing
from configs.kept import read_json, read_or_none
from experiments.baseline_plan import _read as read_plan
from experiments.rank import _drawn
from experiments.reporting.front import read_front
from experiments.retrained import Retrained
from experiments.run import run_pipeline
from experiments.tracking.journal import Journal
from experiments.training_history import TrainingHistory
from experiments.workspace import Workspace, open_workspace
from search.study import SearchStudy, stored_studies

DAMAGE = {"empty": b"", "garbage": b"\x00\xff\x00 no text", "other": b'["another thing"]'}


@dataclass
class Story:
    """A finished run, and how it is begun again."""

    config: Config
    directory: Path

    def run(self) -> tuple[Retrained, Retrained]:
        return run_pipeline(self.config, self.directory)

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.directory.glob(pattern))
        assert found, pattern
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[Story]:
    config = small_config(
        data={"limit": 300},
        train={"epochs": 2, "batch_size": 64},
        evaluate={"calibration_images": 64},
        latency={"max_spread": 10, "repeats": 6},
        search={"trials": 6, "workers": 0, "profile_samples": 1},
        verify={"budget": 2},
        retrain={"epochs": 2, "batch_size": 64},
    )
    story = Story(config, tmp_path_factory.mktemp("damaged") / "run")
    with pytest.MonkeyPatch.context() as patch:
        one_program(patch)
        story.run()
        yield story


def without_time(file: Path) -> object:
    values = json.loads(file.read_text())
    for key in ("seconds", "latencies", "latency_ms", "latency_spread"):
        values.pop(key, None)
    return values


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_made_again_and_nothing_is_trained_again(
    finished: Story, kind: str, caplog
) -> None:
    derived = [
        finished.directory / "statistics.json",
        finished.directory / "tracking.state.json",
        *finished.files("retrained/*/metrics.json"),
        *finished.files("retrained/*/seed-*/metrics.json"),
        *finished.files("retrained/*/fingerprint.json"),
        *finished.files("verified/*/*/*/metrics.json"),
    ]
    lost = [
        finished.directory / "supernet/history.json",
        *(folder / "history.json" for folder in finished.files("retrained/*/seed-*")),
    ]
    tables = finished.files("report/*.csv")
    before = {file: without_time(file) for file in derived}
    trained = {file: load_file(file) for file in finished.files("**/weights.safetensors")}
    statistics = (finished.directory / "statistics.json").read_bytes()
    front = read_front(finished.directory / "report")
    for file in [*derived, *lost, *tables]:
        file.write_bytes(DAMAGE[kind])
    with caplog.at_level(logging.WARNING):
        finished.run()
    said = "\n".join(record.getMessage() for record in caplog.records)
    for file in derived:
        assert f"{file} is damaged" in said or file.parent.parent.name == "retrained", file
        if file.name not in ("fingerprint.json", "tracking.state.json"):
            assert without_time(file) == before[file], file
        json.loads(file.read_text())
    assert (finished.directory / "statistics.json").read_bytes() == statistics
    again = read_front(finished.directory / "report")
    assert [(r.architecture, r.metrics) for r in again] == [
        (r.architecture, r.metrics) for r in front
    ]
    for file, weights in trained.items():
        now = load_file(file)
        assert all(torch.equal(weights[key], now[key]) for key in {*weights, *now}), file
    for file in finished.directory.rglob("*.damaged"):
        file.unlink()


def test_a_damaged_history_goes_on_and_knows_no_time(tmp_path, caplog) -> None:
    file = tmp_path / "history.json"
    for content in DAMAGE.values():
        file.write_bytes(content)
        history = TrainingHistory(file)
        assert f"{file} is damaged" in caplog.text
        history.add(3, {"loss": 1.0, "seconds": 2.0})
        assert history.seconds is None  # two epochs are not written down
        assert [entry["epoch"] for entry in TrainingHistory(file).entries] == [3]
        assert history.plot().stat().st_size > 0


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_front_is_refused_and_says_what_writes_it_again(tmp_path, kind) -> None:
    (tmp_path / "front.csv").write_bytes(DAMAGE[kind])
    with pytest.raises(UserError, match=r"front\.csv is damaged \(.+the same `evolute search`"):
        read_front(tmp_path)


def test_a_front_that_ends_in_the_middle_of_a_line_is_refused(finished: Story, tmp_path) -> None:
    whole = (finished.directory / "report" / "front.csv").read_text()
    (tmp_path / "front.csv").write_text(whole.rstrip()[: whole.index("\n") + 8])
    with pytest.raises(UserError, match=r"front\.csv is damaged"):
        read_front(tmp_path)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_choices_are_refused_and_never_drawn_again(tmp_path, kind: str) -> None:
    for name, read in (
        ("baselines.json", read_plan),
        ("networks.json", lambda file: _drawn(None, 3, file)),  # type: ignore[arg-type]
    ):
        file = tmp_path / name
        file.write_bytes(DAMAGE[kind])
        if kind == "other" and name == "networks.json":
            continue  # a list of texts is one of architectures, of other letters
        with pytest.raises(UserError, match=rf"{name} is damaged \(.+\); .* move it away"):
            read(file)
        assert file.read_bytes() == DAMAGE[kind]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_scores_and_plain_networks_are_measured_again(tmp_path, kind: str, caplog) -> None:
    from experiments import plain_networks, predictors

    for parse in (plain_networks._networks, predictors._scores):
        file = tmp_path / "plain.json"
        file.write_bytes(DAMAGE[kind])
        assert read_or_none(file, parse, "they are measured again") is None
        assert not file.exists() and (tmp_path / "plain.json.damaged").exists()
    assert caplog.text.count("plain.json is damaged") == 2


def test_an_empty_study_is_not_a_new_one(tmp_path) -> None:
    from search.goal import Goal
    from search_space import SearchSpace

    config, file = small_config(), tmp_path / "study.db"
    file.write_bytes(b"")
    url = f"sqlite:///{file}"
    goal = Goal({"params": "minimize"})
    with pytest.raises(UserError, match=r"study\.db is damaged \(it is empty\).*move it away"):
        stored_studies(url)
    with pytest.raises(UserError, match=r"study\.db is damaged \(it is empty\).*move it away"):
        SearchStudy(url, "s", SearchSpace(config.space), goal)
    assert file.read_bytes() == b""
    file.write_bytes(DAMAGE["garbage"] * 200)
    with pytest.raises(UserError, match="not a database"):
        stored_studies(url)
    file.unlink()
    SearchStudy(url, "s", SearchSpace(config.space), goal)
    assert [study.name for study in stored_studies(url)] == ["s"]
    assert sorted(os.listdir(tmp_path)) == ["study.db"]


def test_a_damaged_configuration_names_its_copy(finished: Story, tmp_path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.directory, copy)
    for content in DAMAGE.values():
        (copy / "config.yaml").write_bytes(content)
        with pytest.raises(
            UserError, match=r"config\.yaml is damaged; copy (\S+) over it"
        ) as error:
            open_workspace(finished.config, copy)
    told = str(error.value).split("copy ")[1].split(" over")[0]
    shutil.copy(told, copy / "config.yaml")
    assert open_workspace(finished.config, copy) == Workspace(copy)


def test_a_damaged_journal_and_state_lose_no_whole_event(tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.append({"event": "tag", "run": "a"})
    with journal.path.open("ab") as stream:
        stream.write(b"\x00" * 40 + b"\n" + b"null\n" + b'{"half": ')
    Journal(tmp_path).append({"event": "tag", "run": "b"})
    assert [event["run"] for event, _ in journal.read()] == ["a", "b"]
    for content in (*DAMAGE.values(), b'{"local": 3}'):
        (tmp_path / "tracking.state.json").write_bytes(content)
        assert journal.uploaded("local") == 0
    journal.mark_uploaded("local", 7, "id")
    assert journal.uploaded("local") == 7 and journal.is_of("id")


KILLED = """
import os, sys
from pathlib import Path
from configs.atomic import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_partial_files_of_killed_processes_are_removed_and_no_others(tmp_path) -> None:
    root = Path(__file__).parents[2]
    file = tmp_path / "deep" / "checkpoint.pt"
    command = [sys.executable, "-c", KILLED, str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        (partial,) = file.parent.iterdir()
        assert remove_abandoned(tmp_path) == []  # its writer lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    elsewhere = partial.with_name(".a.pt.00000000-1-1.partial")
    old = partial.with_name(".b.pt.00000000-1-1.partial")
    for other in (elsewhere, old, partial.with_name("my.partial")):
        other.write_text("")
    os.utime(old, (0, 0))
    assert sorted(remove_abandoned(tmp_path)) == sorted([partial, old])
    assert sorted(os.listdir(file.parent)) == [elsewhere.name, "my.partial"]


def test_the_next_run_removes_partial_files(finished: Story) -> None:
    machine = replacing(finished.directory / "x")
    with machine as partial:
        partial.write_text("")
        name = partial.name
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = finished.directory / "supernet" / name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    left.write_text("half a checkpoint")
    from experiments.workspace import open_tracker

    open_tracker(finished.config, Workspace(finished.directory)).finish()
    assert not left.exists()


def test_every_file_is_synced_before_it_is_renamed_and_its_folders_after(
    tmp_path, monkeypatch
) -> None:
    happened: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        happened.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def note_rename(old: Path, new: Path) -> None:
        happened.append(("rename", Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    with replacing(tmp_path / "new" / "folder" / "file") as partial:
        partial.write_text("content")
        name = partial.name
    assert happened == [
        ("sync", tmp_path.name), ("sync", "new"),  # that hold the folders which were made
        ("sync", name), ("rename", "file"), ("sync", "folder"),
    ]  # fmt: skip


def test_a_message_says_file_reason_and_way_out(tmp_path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged \(Expecting .+\); go home"):
        read_json(file, dict, "go home")
    assert read_or_none(tmp_path / "gone.json", dict, "") is None
