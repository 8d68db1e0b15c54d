"""A training in two processes, as `torchrun` starts them, on real sockets (gloo)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from spaces import small_config
from torch import nn

from configs import config_to_dict

ROOT = Path(__file__).parents[2]
BATCH = 32
SAMPLINGS = ("fair", "uniform")
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import test_distributed
test_distributed.train_all({norms!r}, {folder!r})
"""


def config_for(sampling: str, batch: int, epochs: int = 2) -> Any:
    train = {"epochs": epochs, "batch_size": batch, "sampling": sampling, "learning_rate": 0.05}
    data = {"name": "digits", "limit": 384, "validation_fraction": 0.3334}
    return small_config(data=data, train=train)


def train_all(norms: tuple[str, ...], folder: str) -> None:
    """Train by each sampling, with each kind of norm."""
    from supernet.distributed import join_distributed_run, leave_distributed_run

    torch.set_num_threads(1)
    rank, world_size = join_distributed_run()
    for sampling in SAMPLINGS:
        for norm in norms:
            file = Path(folder) / f"{sampling}-{norm}-{rank}.safetensors"
            train_here(sampling, norm, file, rank, world_size)
    leave_distributed_run()


def train_here(sampling: str, norm: str, file: Path, rank: int, world_size: int) -> None:
    """Train an epoch or two; each process leaves its weights, and its losses beside them."""
    from experiments.classification import supernet_trainer
    from experiments.data.splits import load_splits
    from experiments.train import new_supernet
    from supernet import fit, save_weights

    # what additions in another order change grows tenfold every other step
    config = config_for(sampling, BATCH // world_size, epochs=1 if norm == "group" else 2)
    supernet = new_supernet(config)
    if norm == "group":
        _replace_norms(supernet)
    splits = load_splits(config, "cpu", rank=rank, world_size=world_size)
    trainer = supernet_trainer(supernet, config.train, splits.train.steps_per_epoch, config.seed)
    losses: list[float] = []
    fit(trainer, splits.train, on_step=lambda step, loss: losses.append(loss))
    save_weights(file, trainer.model)
    file.with_suffix(".json").write_text(json.dumps(losses))


def _replace_norms(module: nn.Module) -> None:
    """A batch norm depends on who is in the batch; a group norm does not."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            _replace_norms(child)


def torchrun(processes: int, *command: str, cwd: Path) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc_per_node", str(processes), *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[int, Path]:
    """Where one process left what it trained, and where two processes did."""
    paths = [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests" / "helpers")]
    folders = {}
    for processes, norms in ((1, ("group",)), (2, ("batch", "group"))):
        folder = folders[processes] = tmp_path_factory.mktemp(f"of-{processes}")
        file = folder / "script.py"
        file.write_text(SCRIPT.format(paths=paths, norms=norms, folder=str(folder)))
        run = torchrun(processes, str(file), cwd=folder)
        printed, _ = run.communicate(timeout=240)
        assert run.returncode == 0, printed
    return folders


def result(folder: Path, sampling: str, norm: str, rank: int = 0) -> dict[str, torch.Tensor]:
    file = folder / f"{sampling}-{norm}-{rank}.safetensors"
    losses = json.loads(file.with_suffix(".json").read_text())
    return {**load_file(file), "losses": torch.tensor(losses)}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_two_processes_have_one_result(trained, sampling: str) -> None:
    """Bit for bit, the batch norms' statistics included."""
    first, second = (result(trained[2], sampling, "batch", rank) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert any("running_var" in key for key in first)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_two_processes_train_what_one_would_with_their_images_together(
    trained, sampling: str
) -> None:
    """Within what the order of additions changes; with norms that do not look at the batch."""
    first, alone = (result(trained[processes], sampling, "group") for processes in (2, 1))
    assert first.keys() == alone.keys()
    for key, value in alone.items():
        assert torch.allclose(first[key], value, rtol=1e-3, atol=1e-4), key


def test_the_command_is_killed_and_goes_on(tmp_path: Path) -> None:
    """`torchrun -m evolute train`: SIGTERM reaches both; they stop after one and the same step."""
    config = config_for("fair", BATCH // 2)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config_to_dict(config)))

    def command(out: str) -> subprocess.Popen[str]:
        more = ("--set", "train.epochs=6", "--out", out)
        return torchrun(2, "-m", "evolute", "train", "small.yaml", *more, cwd=tmp_path)

    straight = command("straight")
    assert straight.wait(timeout=240) == 0, straight.communicate()
    stopped = command("stopped")
    deadline = time.monotonic() + 120
    while not (tmp_path / "stopped" / "supernet" / "checkpoint.pt").exists():
        assert stopped.poll() is None and time.monotonic() < deadline, stopped.communicate()
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(timeout=60)
    assert not (tmp_path / "stopped" / "supernet" / "weights.safetensors").exists()
    resumed = command("stopped")
    assert resumed.wait(timeout=240) == 0, resumed.communicate()
    ours, theirs = (
        load_file(tmp_path / out / "supernet" / "weights.safetensors")
        for out in ("straight", "stopped")
    )
    for key, value in ours.items():  # statistics are a mean, of two parts or one
        same = torch.allclose if "running" in key else torch.equal
        assert same(value, theirs[key]), key
