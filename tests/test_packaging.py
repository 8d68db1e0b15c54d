"""The wheel holds all that the tree holds, and runs where the tree is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import evolute
from evolute.rooms import ROOMS

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
SMALL = (
    "train.epochs=2", "data.limit=400", "evaluate.calibration_images=64", "search.trials=4",
    "search.workers=1", "search.profile_samples=2", "latency.repeats=6", "latency.max_spread=10",
    "retrain.epochs=2", "search.verify=false",
)  # fmt: skip
FILES = """
import importlib, json, sys
print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """What a command prints; it must not fail."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def tracked() -> list[str]:
    """The files of the tree that are under version control."""
    files = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return [name for name in files if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no ``build/`` is left in the tree; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "tree" / name)
    run(*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder),
        cwd=folder / "tree")  # fmt: skip
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    rooms = {name for name in tracked() if name.split("/")[0] in ("evolute", *ROOMS)}
    metadata = {name for name in inside if ".dist-info/" in name}
    assert inside - metadata == rooms
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    assert {f"{room}/py.typed" for room in ("evolute", *ROOMS)} <= inside
    assert "configs/quickstart.yaml" in inside
    assert any(name.endswith(".cpp") for name in inside)


def test_there_is_one_version(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert wheel.name.startswith(f"evolute-{evolute.__version__}-")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{evolute.__version__}]" in changes


@pytest.mark.timeout(600)
def test_the_wheel_runs_the_quickstart_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    run(*PIP, "install", "--no-deps", "--target", str(installed), str(wheel), cwd=tmp_path)
    environment = {
        "PYTHONPATH": str(installed),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),  # the kernels are compiled from the wheel
    }
    files = json.loads(
        run(sys.executable, "-c", FILES, "evolute", *ROOMS, cwd=empty, **environment)
    )
    assert all(Path(file).is_relative_to(installed) for file in files), files

    overrides = [word for value in SMALL for word in ("--set", value)]
    run(sys.executable, "-m", "evolute", "run", "quickstart", *overrides, cwd=empty, **environment)
    results = empty / "runs" / "quickstart"
    for file in ("supernet/weights.safetensors", "study.db", "report/report.html"):
        assert (results / file).stat().st_size > 0, file
    assert list(results.rglob("retrained/*/model.onnx"))
