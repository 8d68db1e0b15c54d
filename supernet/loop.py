"""A whole training: epochs of steps, with checkpoints, until it is done or asked to stop."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from supernet.checkpoint import load_checkpoint, save_checkpoint
from supernet.distributed import any_process, in_distributed_run, is_main_process, share_statistics
from supernet.trainer import Diverged, Trainer

ROLLBACKS = 2  # of a training, each with half the learning rate of before; then it gives up
SPIKE, WINDOW = 20, 50  # deviations above the mean of so many steps before it: not noise any more

logger = logging.getLogger("evolute.training")


class Batches(Protocol):
    """Training batches as pure functions of the epoch and their place in it."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B, C, H, W) images and their targets of one epoch, from batch `start` on."""


def fit(
    trainer: Trainer,
    batches: Batches,
    checkpoint: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    during: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    on_rollback: Callable[[str], None] = logger.warning,
) -> None:
    """Train to the end of the recipe, from the checkpoint where there is one.

    The full state is saved after every epoch, and on SIGINT or SIGTERM before `KeyboardInterrupt`
    is raised; never with weights that are not finite.

    A loss that explodes, or is not finite, takes the training back to the last state that was
    saved, from where it goes on with half the learning rate; at most `ROLLBACKS` times.

    Args:
        checkpoint: File to resume from and to save to; None saves nothing.
        on_step: Called with the steps done and the step's loss.
        on_epoch: Called with the epochs done and the epoch's mean loss.
        during: Gives a context for every step, which is left between steps: such as a lock of the
            device that others want too. Waiting for it ends with a signal.
        on_rollback: Called with what happened each time the training is taken back.

    Raises:
        KeyboardInterrupt: The run was asked to stop; its state is saved.
        UserError: The checkpoint is damaged or of another training, or the loss or the weights
            are not finite although the learning rate was made smaller.
    """
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, trainer.device)
        try:
            trainer.load_state_dict(state)
        except UserError as error:
            raise UserError(f"{checkpoint}: {error}") from None
    good = _in_memory(trainer)
    with _StopSignals() as signals:
        while trainer.step < trainer.total_steps:
            epoch, start = divmod(trainer.step, trainer.steps_per_epoch)
            losses: list[float] = []
            loader = batches.epoch(epoch, start)
            try:
                for _ in range(start, trainer.steps_per_epoch):
                    with contextlib.ExitStack() as held:
                        with signals.at_once():
                            held.enter_context(during())
                        losses.append(trainer.train_step(*next(loader)))
                    _check_spike(trainer, losses)
                    if on_step is not None:
                        on_step(trainer.step, losses[-1])
                    if any_process(signals.received):
                        raise KeyboardInterrupt
                _share_and_check(trainer)
            except KeyboardInterrupt:
                _share_and_check(trainer)
                _save(trainer, checkpoint)
                raise
            except Diverged as error:
                if trainer.rollbacks == ROLLBACKS:
                    raise
                _take_back(trainer, good)
                on_rollback(
                    f"{error.what}. The training goes on from step {trainer.step} with "
                    f"{trainer.rate_scale:g} of the learning rate"
                )
                continue
            _save(trainer, checkpoint)
            good = _in_memory(trainer)
            if on_epoch is not None:
                on_epoch(epoch + 1, float(np.mean(losses)))


def _share_and_check(trainer: Trainer) -> None:
    for network in {trainer.model, trainer.shipped()}:
        share_statistics(network)
    trainer.check_weights()


def _check_spike(trainer: Trainer, losses: Sequence[float]) -> None:
    """Refuse a loss that has nothing to do with those before it.

    Raises:
        Diverged: It is far above them.
    """
    *before, loss = losses[-WINDOW - 1 :]
    if len(before) < WINDOW:
        return
    mean, deviation = statistics.fmean(before), statistics.stdev(before)
    if loss > mean + SPIKE * deviation and loss > 2 * mean:
        what = f"the loss rose from {mean:.3g} to {loss:.3g} at step {trainer.step - 1}"
        raise trainer.diverged(what)


def _in_memory(trainer: Trainer) -> bytes:
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    return buffer.getvalue()


def _take_back(trainer: Trainer, good: bytes) -> None:
    """Give a trainer the state of before, and half the learning rate it had now."""
    rollbacks = trainer.rollbacks
    state: dict[str, Any] = torch.load(
        io.BytesIO(good), map_location=trainer.device, weights_only=True
    )
    trainer.load_state_dict(state)
    trainer.rollbacks = rollbacks + 1


def _save(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is not None and is_main_process():
        save_checkpoint(checkpoint, trainer.state_dict())


class _StopSignals:
    """Notes SIGINT and SIGTERM, for a loop that asks when it can stop cleanly."""

    def __init__(self) -> None:
        self.received = False
        self._at_once = False
        self._previous: dict[int, Any] = {}

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise KeyboardInterrupt where a signal arrives in this block, which changes nothing.

        Not in a distributed run, whose processes stop after the same step.
        """
        self._at_once = not in_distributed_run()
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, *_: Any) -> None:
        self.received = True
        if self._at_once:
            raise KeyboardInterrupt

    def __enter__(self) -> _StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread: signals go elsewhere
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
