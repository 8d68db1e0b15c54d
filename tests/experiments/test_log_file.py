"""``evolute.log``: what a command printed and warned of, with times and without secrets."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from spaces import space_values

from configs import UserError
from experiments import cli
from experiments.console import TimeLeft, console, step_progress
from experiments.log_file import NAME, LogFile, begin_log, logged
from experiments.ownership import owned
from experiments.workspace import Workspace

ROOT = Path(__file__).parents[2]
CONFIG = {
    "name": "tiny", "device": "cpu", "space": space_values(candidates=("conv3", "skip")),
    "data": {"limit": 200}, "train": {"epochs": 2, "batch_size": 64},
}  # fmt: skip
URI = "http://us3rx:s3cr3tx@127.0.0.1:9"  # nobody answers there


def test_a_command_leaves_what_it_printed_without_secrets(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    command = ["evolute", "train", "tiny.yaml", "--out", "[b]", "--set", f"tracking.uri={URI}"]
    for _ in range(2):  # the second appends
        monkeypatch.setattr(sys, "argv", command)
        cli.main()
    log = Path("[b]") / NAME
    text = log.read_text()
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in lines)
    assert "us3rx" not in text and "s3cr3tx" not in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert text.count("evolute train tiny.yaml --out") == 2
    assert text.count("Data: digits") == 1 and "WARNING: The tracking store http://***@" in text
    steps = [line for line in lines if "Supernet: " in line]
    assert len(steps) == 1 and "loss" in steps[0]  # not every step


def test_what_is_refused_leaves_no_log_and_what_fails_is_in_it(tmp_path) -> None:
    workspace = Workspace(tmp_path / "run")
    with pytest.raises(UserError), owned(workspace):
        console.print("seen by nobody")
        raise UserError("no")
    assert not workspace.directory.exists()
    with pytest.raises(UserError), owned(workspace):
        console.print("before it began", style="red")
        workspace.directory.joinpath("result").write_text("x")
        begin_log(workspace.directory, None)
        logging.getLogger("evolute.somewhere").warning("be warned")
        raise UserError("the\nreason")
    logging.getLogger("evolute.somewhere").warning("afterwards")
    console.print("afterwards")
    told = [line[21:] for line in (workspace.directory / NAME).read_text().splitlines()]
    assert told == ["before it began", "WARNING: be warned", "UserError: the", "reason"]


def test_warnings_are_still_shown() -> None:
    script = "import logging; from experiments.log_file import logged\n"
    script += "with logged(): logging.getLogger('evolute.x').warning('seen')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)  # fmt: skip
    assert done.stderr == "seen\n" and done.stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_costs_the_log_alone() -> None:
    log = LogFile()
    log.begin(Path("/dev/full"), None)
    assert log.write("lost") == 4


def test_piped_progress_says_how_long_it_takes_and_does_not_flood_a_log(
    monkeypatch, capsys, tmp_path
) -> None:
    now = 1000.0
    monkeypatch.setattr("experiments.console.time.monotonic", lambda: now)
    with logged(), step_progress("Supernet", 100) as advance:
        begin_log(tmp_path, None)
        now += 500  # a start-up
        for step in range(40, 101):  # an earlier run did the others
            advance(step, "loss 2.26")
            now += 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Supernet: 40/100 loss 2.26"
    assert lines[1] == "Supernet: 41/100 loss 2.26, 6 min left"
    assert lines[-2:] == ["Supernet: 99/100 loss 2.26, 6 s left", "Supernet: 100/100 loss 2.26"]
    kept = (tmp_path / NAME).read_text().splitlines()
    assert len(kept) == 13 and kept[-1].endswith("Supernet: 100/100 loss 2.26")


def test_a_training_that_was_taken_back_counts_anew() -> None:
    left = TimeLeft(10)
    assert left.after(5) == "" and left.after(6).endswith("left") and left.after(3) == ""
