"""One owner of a work directory: what a second command is told, and what it leaves as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from spaces import small_config

from configs import UserError, config_to_dict
from experiments import cli
from experiments.ownership import LOCK, owned
from experiments.workspace import Workspace

LONG = {"epochs": 10_000, "batch_size": 64}


def evolute(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evolute", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder in which a training goes on in ``out``."""
    folder = tmp_path_factory.mktemp("owned")
    config = small_config(data={"name": "digits", "limit": 200}, train=LONG)
    (folder / "small.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    first = evolute(folder, "train", "small.yaml", "--out", "out")
    deadline = time.monotonic() + 400
    while not (folder / "out" / "supernet" / "checkpoint.pt").exists():
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.2)
    yield folder, first
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=200)


def test_a_second_command_is_refused_at_once_and_writes_nothing(
    training, monkeypatch, capsys
) -> None:
    folder, first = training
    monkeypatch.chdir(folder)
    os.kill(first.pid, signal.SIGSTOP)  # so that only the second one could write
    try:
        before = files_of(folder)
        for command in ("train", "search", "run", "rank"):
            begun = time.monotonic()
            monkeypatch.setattr(sys, "argv", ["evolute", command, "small.yaml", "--out", "out"])
            with pytest.raises(SystemExit, match="2"):
                cli.main()
            told = " ".join(capsys.readouterr().err.split())
            assert f"in use by process {first.pid} (" in told and "evolute train" in told
            assert time.monotonic() - begun < 100
            assert files_of(folder) == before
    finally:
        os.kill(first.pid, signal.SIGCONT)


def test_two_retrainings_of_one_directory(tmp_path) -> None:
    config = small_config(data={"name": "digits", "limit": 200}, retrain=LONG)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    command = ("retrain", "small.yaml", "--architecture", "evolute_rednet26", "--out", "out")
    with owned(Workspace(tmp_path / "out")):
        (tmp_path / "out" / "note").write_text("mine")
        before = files_of(tmp_path)
        second = evolute(tmp_path, *command)
        _, error = second.communicate(timeout=200)
        assert second.returncode == 2 and f"process {os.getpid()}" in " ".join(error.split())
        assert files_of(tmp_path) == before


def test_the_right_goes_with_the_process(tmp_path) -> None:
    script = "import sys, time; from experiments.ownership import owned; "
    script += "from experiments.workspace import Workspace; from pathlib import Path\n"
    script += "with owned(Workspace(Path('out'))): print('mine', flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    workspace = Workspace(tmp_path / "out")
    with pytest.raises(UserError, match=rf"in use by process {process.pid}\b"), owned(workspace):
        pass
    with pytest.raises(UserError, match="in use"), owned(workspace.named("other")):
        pass  # the supernet is one, and so is the database
    process.kill()
    process.wait()
    with owned(workspace), owned(workspace):
        (workspace.directory / "result").write_text("x")
    assert {file.name for file in workspace.directory.iterdir()} - {LOCK} == {"result"}


def test_a_directory_in_which_nothing_was_written_is_gone(tmp_path) -> None:
    with pytest.raises(UserError, match="no"), owned(Workspace(tmp_path / "runs" / "a")):
        raise UserError("no")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    with owned(Workspace(tmp_path / "runs" / "a")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
