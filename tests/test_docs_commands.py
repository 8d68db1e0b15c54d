"""Every command line in the documents is one that its program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import typer
from documents import ROOT, blocks, inline_code
from PIL import Image

from configs import load_config
from experiments import cli

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

# First words of lines that no test runs, and why.
NOT_RUN = {
    "make": "it installs into a new environment; that its targets exist is tested below",
    "pip": "it installs; tests/test_packaging.py builds and installs the wheel",
    "python3": "it makes an environment; as above",
    ".venv/bin/python": "it installs; as above",
    ".venv/bin/ruff": "the checks themselves",
    "export": "of the shell",
    "head=$(hostname)": "of the shell, under Slurm",
    "sleep": "of the shell",
    "#SBATCH": "it needs Slurm",
    "srun": "it needs Slurm; what it starts is parsed",
    "torchrun": "it needs several GPUs; what it starts is parsed",
    "curl": "tests/experiments/test_run.py asks a server in the same way",
}
STARTERS = (
    r"^\S*python3? -m ",
    r"^torchrun (?:--\S+ \S+ )*-m ",
    r"^srun (?:-\S+ (?:\S+ )?)*?(?=ray)",
)


def lines() -> Iterator[tuple[str, str]]:
    """Every line of a block of commands, with its place."""
    for block in blocks("", "text"):
        for line in block.text.splitlines():
            yield str(block), line
    indented = re.findall(r"^    (evolute .+)$", (ROOT / "docs/search.md").read_text(), re.M)
    yield from (("docs/search.md", line) for line in indented)


def programs() -> Iterator[tuple[str, list[str]]]:
    """The words of every line that one of three programs is called by, with its place."""
    for place, line in lines():
        line = re.sub(r"^(?:[A-Z]\w*=\S+ )*", "", line.strip().removesuffix(" &"))
        for starter in STARTERS:
            line = re.sub(starter, "", line)
        line = line.removeprefix(".venv/bin/")
        if line.startswith(("evolute ", "mlflow ", "ray ")):
            yield place, shlex.split(line, comments=True)


CALLS = [(place, words) for place, words in programs() if words[0] == "evolute"]


@pytest.mark.parametrize(("place", "words"), CALLS, ids=lambda v: "" if type(v) is str else v[1])
def test_every_call_of_evolute_is_parsed(place: str, words: list[str]) -> None:
    name, *arguments = words[1:]
    context = COMMANDS[name].make_context(name, arguments)  # raises for what does not exist
    load_config("cifar10_cpu", list(context.params.get("set_") or ()))
    if {"config", "directory"} & context.params.keys() and name != "retrain":
        assert context.params.get("config") or context.params.get("directory")


def test_calls_are_found() -> None:
    assert len(CALLS) > 30
    assert {words[1] for _, words in CALLS} >= {"init", "plan", "run", "ui", "retrain", "train"}


def test_commands_in_running_text_are_commands() -> None:
    """Their names and options; what they are given is often left out there."""
    found = 0
    for document, code in inline_code():
        words = code.split()
        if words[0] != "evolute" or len(words) < 2 or not words[1].isalpha():
            continue
        known = {option for p in COMMANDS[words[1]].params for option in p.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known | {"--help"}, f"{document}: {code}"
        found += 1
    assert found > 10


def test_overrides_in_running_text_are_keys() -> None:
    for _, code in inline_code():
        for override in re.findall(r"--set ([\w.]+=[^{. ][^{ ]*|[\w.]+={.*?})(?= |$)", code):
            if not override.startswith("section.key"):  # of any section
                load_config("cifar10_cpu", [override])


def test_the_calls_of_mlflow_and_ray_are_parsed() -> None:
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    count = 0
    for _, words in programs():
        if words[0] in ("mlflow", "ray"):
            command, rest = {"mlflow": mlflow, "ray": ray}[words[0]], words[1:]
            while hasattr(command, "commands"):
                name, *rest = rest
                command = command.commands[name]
            command.make_context(command.name, rest)
            count += 1
    assert count >= 6


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    run = ("evolute", "mlflow", "ray", ".venv/bin/evolute", "python")
    prose = ("photos/", "daisy/", "tulip/", "plugins:", "def", "latency", "if", "return")
    for place, line in lines():
        words = re.sub(r"^(?:[A-Z]\w*=\S+ )+", "", line.strip()).split()
        if words:
            assert words[0] in (*run, *prose, *NOT_RUN), f"{place}: {line}"


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = {words[1] for _, line in lines() if (words := line.split())[:1] == ["make"]}
    assert named and named <= targets


def test_the_question_of_the_tutorial_is_written(tmp_path) -> None:
    (line,) = [line for _, line in lines() if line.startswith("python -c")]
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    subprocess.run(line.replace("python", "python3", 1), shell=True, cwd=tmp_path, check=True)
    assert '"dataframe_records"' in (tmp_path / "question.json").read_text()
