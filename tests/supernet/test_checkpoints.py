"""Checkpoints: an interruption changes nothing, and a damaged file is named."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spaces import changed, state_of
from torch import Tensor
from trainings import (
    FixedBatches,
    assert_identical,
    full_state,
    new_trainer,
    one_step,
)

from configs import UserError
from supernet import fit, seed_everything
from supernet.checkpoint import load_checkpoint, save_checkpoint

RICH: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "ema_decay": 0.9}


@pytest.mark.parametrize(
    ("stop_after", "number"),
    [(3, signal.SIGTERM), (5, signal.SIGTERM), (7, signal.SIGTERM), (5, signal.SIGINT)],
)
@pytest.mark.parametrize("kind", ["fair", "uniform", "sandwich", "alone"])
def test_an_interruption_changes_nothing(tmp_path, kind: str, stop_after: int, number) -> None:
    recipe = RICH if kind == "alone" else {}
    straight = new_trainer(kind, **recipe)
    losses: list[float] = []
    fit(straight, FixedBatches(), on_step=lambda _, loss: losses.append(loss))

    handler = signal.getsignal(number)
    stopped = new_trainer(kind, **recipe)
    first: list[float] = []

    def stop(step: int, loss: float) -> None:
        first.append(loss)
        if step == stop_after:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, FixedBatches(), tmp_path / "c.pt", on_step=stop)
    assert len(first) == stop_after
    assert signal.getsignal(number) is handler

    resumed = new_trainer(kind, **recipe)
    seed_everything(77, 77)  # whatever state the new process is in
    fit(resumed, FixedBatches(), tmp_path / "c.pt", on_step=lambda _, loss: first.append(loss))
    assert first == losses
    assert_identical(full_state(resumed), full_state(straight))
    assert not list(tmp_path.glob("*.partial"))


def test_epochs_are_reported_and_saved(tmp_path) -> None:
    trainer = new_trainer("uniform")
    epochs: list[tuple[int, float, int]] = []

    def on_epoch(epoch: int, loss: float) -> None:
        epochs.append((epoch, loss, load_checkpoint(tmp_path / "c.pt")["step"]))

    losses: list[float] = []
    fit(trainer, FixedBatches(), tmp_path / "c.pt", lambda _, loss: losses.append(loss), on_epoch)
    means = [np.mean(losses[:5]), np.mean(losses[5:])]
    assert epochs == [(1, pytest.approx(means[0]), 5), (2, pytest.approx(means[1]), 10)]
    fit(new_trainer("uniform"), FixedBatches(), tmp_path / "c.pt", on_step=lambda *_: 1 / 0)  # done


def save_for_ever(path: Path) -> None:
    for number in range(1_000_000):
        save_checkpoint(path, {"number": number, "weights": torch.full((500_000,), float(number))})


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path) -> None:
    path = tmp_path / "c.pt"
    last = -1
    rng = np.random.default_rng(0)
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(path,))
        process.start()
        deadline = time.monotonic() + 120
        written = path.stat().st_mtime_ns if path.exists() else None
        while not path.exists() or path.stat().st_mtime_ns == written:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()  # SIGKILL
        process.join()
        state = load_checkpoint(path)
        assert (state["weights"] == state["number"]).all()
        last = max(last, state["number"])
    assert last > 0


def trained_checkpoint(path: Path) -> bytes:
    trainer = new_trainer("uniform")
    one_step(trainer)
    save_checkpoint(path, trainer.state_dict())
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other", "list"])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, damage: str) -> None:
    path = tmp_path / "c.pt"
    content = trained_checkpoint(path)
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "flipped":
        path.write_bytes(b"\xff" * 2000 + content[2000:])
    elif damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        torch.save([1, 2], path)
    left = path.read_bytes()
    trainer = new_trainer("uniform")
    before = state_of(trainer.model)
    with pytest.raises(UserError, match="checkpoint") as caught:
        fit(trainer, FixedBatches(), path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == left
    assert not changed(before, trainer.model)


def test_a_damaged_checkpoint_is_named_by_its_path(tmp_path) -> None:
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04")
    for name, expected in [("c.pt", "damaged"), ("gone.pt", "no such checkpoint")]:
        with pytest.raises(UserError, match=expected) as caught:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_runs_no_code(tmp_path, form: str) -> None:
    path, payload = tmp_path / "c.pt", Payload(tmp_path / "ran")
    if form == "torch":
        torch.save({"model": payload}, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)
    assert not payload.marker.exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path) -> None:
    path = tmp_path / "c.pt"
    trained_checkpoint(path)
    with pytest.raises(UserError, match="seed: 1 differs from the checkpoint's 0"):
        fit(new_trainer("uniform", seed=1), FixedBatches(), path)
    with pytest.raises(UserError, match="another network or recipe"):
        fit(new_trainer("alone"), FixedBatches(), path)


class SpoiledBatches(FixedBatches):
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (images, labels) in enumerate(super().epoch(epoch, start)):
            yield (images * float("nan") if epoch == 1 and step == 2 else images), labels


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path) -> None:
    trainer = new_trainer("uniform")
    with pytest.raises(UserError, match=r"loss is nan at step 7.*learning_rate"):
        fit(trainer, SpoiledBatches(), tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["model"].values())


class SpoiledOnce(FixedBatches):
    """One batch is not finite, the first time it is asked for."""

    def __init__(self) -> None:
        self.spoiled = False

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (images, labels) in enumerate(super().epoch(epoch, start), start):
            if epoch == 1 and step == 2 and not self.spoiled:
                self.spoiled, images = True, images * float("nan")
            yield images, labels


@pytest.mark.parametrize("kind", ["uniform", "alone"])
def test_a_loss_that_is_not_finite_once_takes_the_training_back(tmp_path, kind: str) -> None:
    """It goes on from the last epoch's end at half the rate, also if it is interrupted later."""
    told: list[str] = []
    straight = new_trainer(kind)
    fit(straight, SpoiledOnce(), tmp_path / "a.pt", on_rollback=told.append)
    assert straight.step == straight.total_steps and straight.rate_scale == 0.5
    (message,) = told
    assert "the loss is nan at step 7" in message and "from step 5 with 0.5 of the" in message

    batches = SpoiledOnce()
    stopped = new_trainer(kind)

    def stop(step: int, loss: float) -> None:
        if step == 6 and batches.spoiled:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, batches, tmp_path / "b.pt", stop, on_rollback=told.append)
    resumed = new_trainer(kind)
    fit(resumed, FixedBatches(), tmp_path / "b.pt")
    assert_identical(full_state(resumed), full_state(straight))


def test_a_loss_that_explodes_once_takes_the_training_back() -> None:
    trainer = new_trainer("alone", epochs=20)
    usual, exploded, told = trainer.loss, [], list[str]()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if trainer.step == 93 and not exploded:
            exploded.append(trainer.step)
            return usual(outputs, targets) * 1000
        return usual(outputs, targets)

    trainer.loss = loss

    class LongEpochs(FixedBatches):
        steps_per_epoch = 100

        def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(start, 100):
                yield from super().epoch(step, FixedBatches.steps_per_epoch - 1)

    trainer.steps_per_epoch, trainer.total_steps = 100, 100
    fit(trainer, LongEpochs(), on_rollback=told.append)
    assert exploded == [93] and trainer.rollbacks == 1
    assert "the loss rose from" in told[0] and "at step 93" in told[0]


def test_a_signal_ends_the_wait_for_a_device(tmp_path) -> None:
    """Another process may hold it for hours."""

    class Busy(contextlib.AbstractContextManager[None]):
        def __enter__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

        def __exit__(self, *_: object) -> None:
            pass

    trainer = new_trainer("alone")
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, FixedBatches(), tmp_path / "c.pt", during=Busy)
    assert time.monotonic() - begun < 20
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 0


def test_a_learning_rate_that_is_far_too_high(tmp_path) -> None:
    trainer = new_trainer("alone", learning_rate=1e12, clip_grad=0, warmup_epochs=0, epochs=4)
    with pytest.raises(UserError, match="try a smaller learning_rate"):
        fit(trainer, FixedBatches(), tmp_path / "c.pt")
