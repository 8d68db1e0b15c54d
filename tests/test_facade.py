"""`import evolute`: quick, complete, without traces, and never with somebody else's package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evolute
from evolute.rooms import ROOMS

ROOT = Path(__file__).parents[1]

IMPORT = """
import json, sys, time
begun = time.perf_counter()
import evolute
seconds = time.perf_counter() - begun
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

TRACES = """
import importlib, json, logging, os, signal, sys
for library in sys.argv[1:]:
    importlib.import_module(library)
import torch

def state():
    handlers = {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()}
    return {"environment": dict(os.environ), "handlers": handlers,
            "random": torch.get_rng_state().tolist()}

def levels():
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return {f"level of {logger.name}": logger.level for logger in loggers}

before, levels_before = state(), levels()
import evolute
for name in evolute.__all__:
    getattr(evolute, name)
after, levels_after = state(), levels()
changed = [key for key in before if before[key] != after[key]]
changed += [name for name in levels_before if levels_before[name] != levels_after[name]]
print(json.dumps(changed))
"""


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A process that finds Evolute as one that installed it, after the working directory."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_importing_takes_no_time_and_loads_nothing_heavy(tmp_path) -> None:
    runs = [python("-c", IMPORT, cwd=tmp_path) for _ in range(5)]
    seconds, loaded = zip(*(json.loads(run.stdout) for run in runs))
    assert min(seconds) < 0.1
    assert "evolute" in loaded[0]
    assert not {"torch", "numpy", "pydantic", "yaml", "typer", *ROOMS} & set(loaded[0])


@pytest.mark.parametrize("name", evolute.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(evolute, name)
    assert vars(evolute)[name] is value  # the second time it is an ordinary attribute


def test_what_is_listed() -> None:
    assert dir(evolute) == sorted(set(evolute.__all__))
    assert len(evolute.__all__) == len(set(evolute.__all__))
    with pytest.raises(AttributeError, match="'evolute' has no attribute 'SearchSpice'"):
        _ = evolute.SearchSpice  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names() -> None:
    body = ast.parse(Path(evolute.__file__).read_text(encoding="utf-8")).body
    (block,) = [node for node in body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        seen |= {alias.asname: node.module for alias in node.names}
    assert seen == evolute._MODULES


@pytest.mark.parametrize(
    "libraries",
    [(), ("timm", "optuna", "ray.tune", "mlflow", "matplotlib")],
    ids=["torch", "all libraries"],
)
def test_importing_leaves_the_process_as_it_was(libraries: tuple[str, ...], tmp_path) -> None:
    result = python("-c", TRACES, *libraries, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("regular", [True, False], ids=["package", "module"])
@pytest.mark.parametrize("room", ["experiments", "search", "configs"])
def test_the_command_names_a_package_that_is_not_ours(room: str, regular: bool, tmp_path) -> None:
    theirs = tmp_path / (room if regular else f"{room}.py")
    if regular:
        theirs.mkdir()
        (theirs / "__init__.py").touch()
    else:
        theirs.touch()
    result = python("-m", "evolute", "--help", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == "" and "Traceback" not in result.stderr
    for part in (repr(room), f"found: {theirs}", f"ours:  {ROOT / room}", "Rename"):
        assert part in result.stderr


def test_the_facade_names_a_package_that_is_not_ours(tmp_path) -> None:
    (tmp_path / "search_space").mkdir()
    (tmp_path / "search_space" / "__init__.py").touch()
    result = python("-c", "import evolute; evolute.SearchSpace", cwd=tmp_path)
    assert result.returncode == 1
    assert "ImportError: 'search_space' is one of Evolute's packages" in result.stderr
    assert str(tmp_path / "search_space") in result.stderr


def test_a_package_that_is_not_needed_does_no_harm(tmp_path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    result = python("-c", "import evolute; print(evolute.SearchSpace)", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "search_space.space.SearchSpace" in result.stdout


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("sys.path.insert(0, 'theirs'); import search; sys.path.pop(0)", "theirs"),
        ("sys.modules['search'] = types.ModuleType('search')", "made by hand"),
    ],
)
def test_one_that_was_imported_before_is_named(made: str, found: str, tmp_path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "search.py").touch()
    code = f"import sys, types; {made}; import evolute; evolute.run_search"
    result = python("-c", code, cwd=tmp_path)
    assert "'search' is one of Evolute's packages" in result.stderr
    assert found in result.stderr.partition("found:")[2].splitlines()[0]


def test_a_folder_without_init_hides_nothing_that_lies_on_the_path(tmp_path) -> None:
    (tmp_path / "search").mkdir()  # results, say
    result = python("-m", "evolute", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
