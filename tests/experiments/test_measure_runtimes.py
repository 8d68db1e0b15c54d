"""`evolute measure --all`: every runtime that is here runs the same network."""

from __future__ import annotations

import io
import json
import re
import tempfile

import pytest
import torch
from rich.console import Console
from spaces import small_space
from typer.testing import CliRunner

from configs import UserError
from configs.latency import LatencySettings
from evaluators.runtime import RUNTIMES, Runtime
from experiments import cli, measure_runtimes
from experiments.measure_runtimes import installed_runtimes, measure_everywhere, runtimes_table
from search_space import save_architecture

QUICK = LatencySettings(repeats=5, max_spread=10.0)


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(measure_runtimes, "BATCHES", (2,))
    monkeypatch.setattr(measure_runtimes, "THREADS", (1, 10**6))


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "architecture.yaml"
    save_architecture(path, small_space(), ("inv3", "dyn3", "skip", "conv3"))
    return str(path)


def broken(model, example, settings):
    raise RuntimeError("no such instruction; and more")


def test_what_is_installed_begins_with_eager(monkeypatch) -> None:
    def missing() -> str:
        raise UserError("runtime: away needs the missing package away")

    monkeypatch.setitem(RUNTIMES._entries, "away", Runtime(broken, missing, True))
    names = installed_runtimes()
    assert names[0] == "eager" and {"compile", "onnxruntime", "pt2"} < set(names)
    assert "away" not in names


def test_every_runtime_has_the_same_logits(file: str, monkeypatch) -> None:
    monkeypatch.setitem(RUNTIMES._entries, "broken", Runtime(broken, lambda: "1", True))
    slow = ("compile", "pt2")  # tested elsewhere
    chosen = [name for name in installed_runtimes() if name not in slow]
    monkeypatch.setattr(measure_runtimes, "installed_runtimes", lambda: chosen)
    rows = measure_everywhere([file], QUICK, device="cpu")
    assert [row.runtime for row in rows] == chosen  # no machine here has a million cores
    for row in rows:
        if row.runtime == "broken":
            assert row.latency is None and "no such instruction" in row.trouble
            continue
        assert row.latency is not None and row.difference is not None
        assert (row.latency.fingerprint["runtime"], row.batch) == (row.runtime, 2)
        assert row.latency.fingerprint["batch"] == 2 and row.difference < 1e-4
    console = Console(file=io.StringIO(), width=160)
    console.print(runtimes_table(rows))
    text = console.file.getvalue()
    lines = {
        name: next(line for line in text.splitlines() if re.search(rf" {name} +2 +1 ", line))
        for name in chosen
    }
    assert " 1.00 " in lines["eager"] and "RuntimeError" in lines["broken"]


def test_the_command_prints_a_line_each(file: str, monkeypatch) -> None:
    monkeypatch.setattr(measure_runtimes, "installed_runtimes", lambda: ["eager"])
    done = CliRunner().invoke(cli.app, ["measure", file, "--all", "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.output)  # nothing else is printed: a program reads it
    assert values["runtime"] == "eager" and values["difference"] == 0.0
    done = CliRunner().invoke(cli.app, ["measure", "resnet8000", "--all"])
    assert isinstance(done.exception, UserError)


def test_a_wrong_program_shows(file: str, monkeypatch) -> None:
    def wrong(model, example, settings):
        return lambda: model(example) + 1

    monkeypatch.setitem(RUNTIMES._entries, "wrong", Runtime(wrong, lambda: "1", True))
    monkeypatch.setattr(measure_runtimes, "installed_runtimes", lambda: ["wrong"])
    (row,) = measure_everywhere([file], QUICK, device="cpu")
    assert row.difference is not None and row.difference > 0.1
    assert torch.is_inference_mode_enabled() is False
