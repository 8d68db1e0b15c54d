"""A disk that is full or may not be written: one line, the old state intact, and a resume."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from spaces import space_values

ROOT = Path(__file__).parents[2]
CONFIG = {
    "name": "tiny", "device": "cpu", "space": space_values(candidates=("conv3", "skip")),
    "data": {"limit": 200}, "train": {"epochs": 3, "batch_size": 64},
    "evaluate": {"calibration_images": 64},
    "search": {"trials": 8, "workers": 0, "profile_samples": 1, "verify": False, "racing": False,
               "objectives": {"cross_entropy": "minimize", "params": "minimize"}},
}  # fmt: skip


def evolute(
    folder: Path, *arguments: str, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    (folder / "tiny.yaml").exists() or (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return subprocess.run(
        [sys.executable, "-m", "evolute", *arguments], cwd=folder, preexec_fn=limit,
        capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def told(done: subprocess.CompletedProcess[str], file: str) -> None:
    """Check that the last line names the file and what is needed or free, and nothing else."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "sqlalche" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert file in line and "cannot be written" in line and "MB are" in line, done.stderr


def partials(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if ".partial" in file.name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = evolute(folder, "train", "tiny.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_file_limit_ends_a_training_with_one_line_and_it_resumes(
    tmp_path, undisturbed: Path
) -> None:
    size = (undisturbed / "supernet" / "checkpoint.pt").stat().st_size
    command = ("train", "tiny.yaml", "--out", "run")
    done = evolute(tmp_path, *command, largest_file=size // 2)
    told(done, "checkpoint.pt")
    assert not partials(tmp_path)
    assert evolute(tmp_path, *command).returncode == 0
    ours = load_file(tmp_path / "run" / "supernet" / "weights.safetensors")
    theirs = load_file(undisturbed / "supernet" / "weights.safetensors")
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def mounted(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real file system of three megabytes."""
    (folder := tmp_path / "disk").mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=3m", "tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_a_training_with_one_line_and_it_resumes(
    small_disk: Path, tmp_path, undisturbed: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    out = small_disk / "run"
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"\0" * (free - 2**16))  # 64 kB are left
    # the MLflow database elsewhere: a full disk must not depend on who writes first
    train = (
        "train",
        "tiny.yaml",
        "--out",
        str(out),
        "--set",
        f"tracking.uri=sqlite:///{tmp_path}/m.db",
    )
    done = evolute(tmp_path, *train)
    assert done.returncode == 2 and "No space left on device" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "MB are free" in done.stderr
    assert not partials(small_disk)
    filler.unlink()
    assert evolute(tmp_path, *train).returncode == 0
    ours = load_file(out / "supernet" / "weights.safetensors")
    theirs = load_file(undisturbed / "supernet" / "weights.safetensors")
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_a_directory_that_may_not_be_written_is_told(undisturbed: Path, tmp_path) -> None:
    (folder := tmp_path / "ro").mkdir()
    mounted(folder, "--bind", str(undisturbed))
    try:
        mounted(folder, "-o", "remount,ro,bind")
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
        before = {f: f.stat().st_mtime_ns for f in undisturbed.rglob("*") if f.is_file()}
        for command in ("train", "search"):
            done = evolute(tmp_path, command, "tiny.yaml", "--out", "ro")
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr and "sqlalche" not in done.stderr
            assert "Read-only file system" in done.stderr and "cannot be written" in done.stderr
        assert before == {f: f.stat().st_mtime_ns for f in undisturbed.rglob("*") if f.is_file()}
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


STUDY = """
import resource, sys
from configs.errors import UserError
from search.goal import Goal
from search.study import SearchStudy
from search.trials import TrialRecord
from search_space import ChoiceSpace

space = ChoiceSpace([[str(i) for i in range(2000)]])
study = SearchStudy(f"sqlite:///{sys.argv[1]}", "s", space, Goal({"params": "minimize"}))
try:
    for index in range(len(study.records), 2000):
        study.add(TrialRecord(-1, (str(index),), {"params": index}, "complete"))
        if len(sys.argv) == 3 and len(study.records) == int(sys.argv[2]) + 5:
            break
except UserError as error:
    print(error)
print(len(study.records))
"""


def test_a_study_that_cannot_grow_says_so_and_keeps_every_trial(tmp_path) -> None:
    def run(limit: int | None, *more: str) -> list[str]:
        def set_limit() -> None:
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = subprocess.run(
            [sys.executable, "-c", STUDY, str(tmp_path / "study.db"), *more],
            preexec_fn=set_limit, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    message, kept = run(400_000)
    assert "study.db cannot be written" in message and int(kept) > 0
    assert run(None, kept) == [str(int(kept) + 5)]  # it goes on where it was
