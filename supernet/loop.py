"""A whole training: epochs of steps, with checkpoints, until it is done or asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from configs.errors import UserError
from supernet.checkpoint import load_checkpoint, save_checkpoint
from supernet.distributed import is_main_process
from supernet.trainer import Trainer


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
) -> None:
    """Train to the end of the recipe, from the checkpoint where there is one.

    The full state is saved after every epoch, and on SIGINT or SIGTERM before `KeyboardInterrupt`
    is raised; never with weights that are not finite.

    Args:
        checkpoint: File to resume from and to save to; None saves nothing.
        on_step: Called with the steps done and the step's loss.
        on_epoch: Called with the epochs done and the epoch's mean loss.
        during: Gives a context for every step, which is left between steps: such as a lock of the
            device that others want too.

    Raises:
        KeyboardInterrupt: The run was asked to stop; its state is saved.
        UserError: The checkpoint is damaged or of another training, or the loss or the weights
            are not finite.
    """
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, trainer.device)
        try:
            trainer.load_state_dict(state)
        except UserError as error:
            raise UserError(f"{checkpoint}: {error}") from None
    with _stop_requested() as stopped:
        while trainer.step < trainer.total_steps:
            epoch, start = divmod(trainer.step, trainer.steps_per_epoch)
            losses = []
            loader = batches.epoch(epoch, start)
            for _ in range(start, trainer.steps_per_epoch):
                with during():
                    losses.append(trainer.train_step(*next(loader)))
                if on_step is not None:
                    on_step(trainer.step, losses[-1])
                if stopped():
                    _save(trainer, checkpoint)
                    raise KeyboardInterrupt
            _save(trainer, checkpoint)
            if on_epoch is not None:
                on_epoch(epoch + 1, float(np.mean(losses)))


def _save(trainer: Trainer, checkpoint: Path | None) -> None:
    trainer.check_weights()
    if checkpoint is not None and is_main_process():
        save_checkpoint(checkpoint, trainer.state_dict())


@contextlib.contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks when it can stop cleanly."""
    received: list[int] = []
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread: signals go elsewhere
            previous[number] = signal.signal(number, lambda signum, frame: received.append(signum))
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
