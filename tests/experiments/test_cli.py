"""The command line: quick help, and one message with exit code 2 for what can be corrected."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from spaces import state_of
from typer.testing import CliRunner

from configs import load_config
from experiments import cli
from experiments.train import train_supernet
from experiments.workspace import Workspace

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "run", "train", "search", "retrain", "rank", "report", "measure", "ui", "init", "status",
    "list", "sync", "operators", "plan", "predict", "export",
)  # fmt: skip
CONFIG = """\
name: tiny
device: cpu
space:
  input_size: 8
  in_channels: 1
  stem: {width: 8}
  candidates: {conv3: {operator: convolution}, skip: {operator: skip}}
  stages: [{width: 16, depth: 2, expansion: 2}]
train: {epochs: 25, batch_size: 64}
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def evolute(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "evolute", *arguments],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(monkeypatch, capsys, *arguments: str, code: int = 2) -> str:
    """What the command prints in this process, which is quicker than in one of its own."""
    monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
    monkeypatch.setattr(cli, "DEBUG", False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = evolute("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # processor time: the machine may be busy with something else
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds.append(used)
        assert result.returncode == 0
        assert all(re.search(rf"\b{command}\b", result.stdout) for command in COMMANDS)
    assert min(seconds) < 0.5


def test_help_loads_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "evolute", "--help"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "ray", "mlflow", "optuna", "timm", "pydantic",
                         "matplotlib", "sklearn"}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_it_accepts(command: str) -> None:
    output = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"}).output
    example = re.search(r"Example:\s+(.+)", output)
    assert example is not None
    words = shlex.split(example[1].strip().rstrip("│").strip())
    assert command in words
    parsed = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    arguments = words[words.index(command) + 1 :]
    parsed.make_context(command, arguments)  # raises where an option or argument doesn't exist


@pytest.mark.parametrize("command", ["run", "train", "search"])
def test_commands_take_overrides_and_a_folder(command: str) -> None:
    parsed = typer.main.get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    context = parsed.make_context(
        command, ["quickstart", "--set", "search.trials=9", "--set", "seed=3", "--out", "there"]
    )
    assert list(context.params["set_"]) == ["search.trials=9", "seed=3"]
    assert context.params["out"] == Path("there")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "quikstart"], ["'quikstart'", "did you mean 'quickstart'?"]),
        (["train", "gone.yaml"], ["'gone.yaml'", "neither a file nor a preset"]),
        (["train", "tiny.yaml", "--set", "train.epoch=3"], ["`train.epoch`", "'epochs'"]),
        (["train", "tiny.yaml", "--set", "train.epochs=few"], ["train.epochs", "'few'"]),
        (["train", "tiny.yaml", "--set", "device=cuda:77"], ["device", "'cuda:77'"]),
        (["train", "tiny.yaml", "--set", "device=cuda:x"], ["device", "'cuda:x'"]),
        (["train", "tiny.yaml", "--set", "plugins=[gone.py]"], ["plugins", "'gone.py'"]),
        (
            ["train", "tiny.yaml", "--set", "train.optimizer=sdg"],
            ["optimizer: 'sdg'", "mean 'sgd'"],
        ),
        (["train", "tiny.yaml", "--set", "space.num_classes=7"], ["num_classes: 7", "10 classes"]),
        (["train", "tiny.yaml", "--set", "space.in_channels=2"], ["in_channels: 2", "1 or 3"]),
        (["train", "tiny.yaml", "--set", "data={name: images, root: gone}"], ["'gone'"]),
        (["search", "tiny.yaml"], ["weights.safetensors", "evolute train"]),
        (["search", "tiny.yaml", "--workers", "-1"], ["search.workers: -1", "`auto`"]),
        (["retrain", "--search", "gone"], ["--search", "'gone'"]),
        (["retrain"], ["--search", "--architecture"]),
        (["measure", "gone.yaml"], ["gone.yaml"]),
        (["init", "new.yaml", "--images", "gone"], ["'gone'"]),
        (["walk"], ["walk"]),
        (["run"], ["CONFIG"]),
        (["run", "tiny.yaml", "--sett", "a=1"], ["--sett", "--set"]),
    ],
    ids=" ".join,
)
def test_what_can_be_corrected_is_one_message(
    folder, monkeypatch, capsys, arguments: list[str], expected: list[str]
) -> None:
    message = refusal(monkeypatch, capsys, *arguments)
    for part in expected:
        assert part in message
    assert len(message.strip().splitlines()) < 9


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("train", ["data.name=gone", "space.num_classes=7", "train.optimizer=sdg"]),
        ("run", ["data={name: images, root: gone}", "train.batch_size=10000"]),
        ("run", ["train.optimizer=sdg", "retrain.optimizer=sdg"]),
        ("retrain", ["data={name: images, root: gone}", "retrain.batch_size=10000"]),
        ("retrain", ["retrain.optimizer=sdg", "latency.runtime=gone"]),
    ],
)
def test_what_is_refused_leaves_the_folder_as_it_was(
    folder, monkeypatch, capsys, command: str, overrides: list[str]
) -> None:
    for override in overrides:
        arguments = [command, "tiny.yaml", "--set", override, "--out", "new"]
        if command == "retrain":
            arguments += ["--architecture", "evolute_rednet26"]
        refusal(monkeypatch, capsys, *arguments)
        assert os.listdir(folder) == ["tiny.yaml"]


@pytest.mark.parametrize(
    "arguments", [["--debug", "train", "gone.yaml"], ["train", "gone.yaml", "--debug"]]
)
def test_the_trace_is_shown_when_asked_for(monkeypatch, capsys, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evolute", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    monkeypatch.setattr(cli, "DEBUG", False)
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert "Traceback" in printed and "find_config" in printed


def test_a_message_stands_alone(folder) -> None:
    plain = evolute("train", "gone.yaml", cwd=folder)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert plain.stderr.startswith("'gone.yaml'") and "Traceback" not in plain.stderr


@pytest.mark.parametrize("damaged", ["checkpoint.pt", "weights.safetensors"])
def test_a_damaged_file_is_named_and_left(folder, monkeypatch, capsys, damaged: str) -> None:
    file = folder / "runs" / "tiny" / "supernet" / damaged
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK\x03\x04 cut")
    message = refusal(monkeypatch, capsys, "train", "tiny.yaml")
    assert str(Path("supernet") / damaged) in message and "damaged" in message
    assert file.read_bytes() == b"PK\x03\x04 cut"
    assert os.listdir(file.parent) == [damaged]


def straight(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a training that nothing interrupts."""
    return state_of(train_supernet(load_config("tiny.yaml"), Workspace(folder / "straight"), None))


def test_an_interrupted_training_goes_on(folder) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "evolute", "train", "tiny.yaml"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    workspace = Workspace(folder / "runs" / "tiny")
    deadline = time.monotonic() + 400
    while not (workspace.checkpoint.exists() and workspace.history.exists()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, printed = process.communicate(timeout=200)
    assert process.returncode == 130
    curves = workspace.history.with_name("curves.png")
    assert f"Curves so far: {curves.relative_to(folder)}" in said and curves.exists()
    assert "What is done is saved" in printed and "Traceback" not in printed
    assert not workspace.weights.exists()
    resumed = train_supernet(load_config("tiny.yaml"), workspace, None)
    expected = straight(folder)
    saved = load_file(workspace.weights)
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected[key]), key
        assert torch.equal(value, saved[key]), key


def test_several_processes_train_one_supernet(folder) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0",
         "-m", "evolute", "train", "tiny.yaml", "--set", "train.epochs=2",
         "--set", "train.batch_size=32"],
        env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Trained:") == 1  # one process speaks and writes
    workspace = Workspace(folder / "runs" / "tiny")
    state = torch.load(workspace.checkpoint, weights_only=True)
    assert state["step"] == 2 * (1149 // 64)
    assert all(torch.isfinite(value).all() for value in load_file(workspace.weights).values())


def test_list_names_everything_that_a_configuration_can_ask_for(capsys) -> None:
    from configs import preset_names
    from evaluators.metric import METRICS
    from evaluators.runtimes import RUNTIMES
    from search.samplers import SAMPLERS
    from search_space.registry import operator_names

    cli.app(["list"], standalone_mode=False)
    printed = capsys.readouterr().out
    words = set(printed.split())
    for names in (preset_names(), operator_names(), METRICS, SAMPLERS, RUNTIMES):
        assert set(names) <= words
    assert {"digits", "perturbed_digits", "images", "bottleneck"} <= words


def test_the_version(capsys) -> None:
    import evolute

    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"evolute {evolute.__version__}"


def test_a_shell_completes_presets_and_files(folder: Path) -> None:
    asked = {"COMP_WORDS": "evolute run ", "COMP_CWORD": "2", "_EVOLUTE_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [Path(sys.executable).with_name("evolute")], cwd=folder, env={**environment(), **asked},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert {"quickstart", "cifar10_cpu", "tiny.yaml"} <= set(done.stdout.split())
