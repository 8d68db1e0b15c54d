"""How a network is trained, one step at a time: the supernet and stand-alone networks alike.

A step is a pure function of the weights, the batch, the seed and the step's number: random
numbers are seeded anew for each step. So a checkpoint holds weights, optimizer and the number of
steps done, and a resumed run continues bit for bit.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from configs.errors import UserError
from supernet.checkpoint import load_checkpoint, save_checkpoint
from supernet.paths import PATHS
from supernet.supernet import Supernet

if TYPE_CHECKING:
    from configs.schema import Recipe, Retrain, Train


class Batches(Protocol):
    """Training batches as pure functions of the epoch."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, C, H, W) images and (B,) labels of one epoch, from batch `start` on."""


class Trainer:
    """A network with its optimizer and schedule.

    What is saved: weights and buffers (dynamic convolution's temperature among them), optimizer,
    averaged weights, steps done, and the seed, which must be the same on resuming.

    Args:
        model: A `Supernet` or a stand-alone network, on its device.
        recipe: A `configs.schema.Train` for a supernet, a `Retrain` for a network.
        steps_per_epoch: Optimizer steps per epoch, for the schedule.
        seed: Seed of paths and augmentation.
    """

    def __init__(
        self, model: nn.Module, recipe: Train | Retrain, steps_per_epoch: int, seed: int
    ) -> None:
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2, list_optimizers
        from timm.scheduler import create_scheduler_v2

        self.model, self.recipe, self.seed = model, recipe, seed
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = recipe.epochs * steps_per_epoch
        self.step = 0
        self.device = next(model.parameters()).device
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            self.optimizer = create_optimizer_v2(
                model,
                opt=recipe.optimizer,
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                momentum=recipe.momentum,
            )
        except ValueError as error:
            near = difflib.get_close_matches(recipe.optimizer, list_optimizers(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"optimizer: {recipe.optimizer!r} fails ({error}){hint}") from None
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine",
            num_epochs=recipe.epochs,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),  # type: ignore[arg-type]
            warmup_prefix=True,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
        self.mixup = _mixup(recipe, model)
        self.averaged = _averaged(recipe, model)
        self.erase = _random_erasing(recipe, self.device)
        self.soft_loss = SoftTargetCrossEntropy()
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One optimizer step; returns the mean loss over the step's paths.

        Raises:
            UserError: The loss is no longer finite.
        """
        seed_everything(self.seed, self.step)
        self.model.train()
        self.scheduler.step_update(self.step)
        anneal(self.model, self.step / self.total_steps)
        if self.erase is not None:
            images = self.erase(images)
        loss_function: nn.Module = self.loss
        if self.mixup is not None and len(images) % 2 == 0:
            images, labels = self.mixup(images, labels)
            loss_function = self.soft_loss
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        self.optimizer.zero_grad(set_to_none=True)  # unsampled candidates must not move
        if isinstance(self.model, Supernet):
            loss = self._backward_paths(images, labels, loss_function)
        else:
            forward = functools.partial(self.model, images)
            loss = self._backward(forward, labels, loss_function, 1)
        loss = average_over_processes(self.model, loss)
        if not math.isfinite(loss):
            rate = self.optimizer.param_groups[0]["lr"]
            raise UserError(
                f"the loss is {loss} at step {self.step} (learning rate {rate:.3g}); try a smaller "
                "learning_rate or clip_grad. The last checkpoint is kept."
            )
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update(self.model, step=self.step)
            # a setting rather than a weight: its average would lag behind
            anneal(self.averaged.module, self.step / self.total_steps)
        self.step += 1
        return loss

    def _backward_paths(self, images: Tensor, labels: Tensor, loss_function: nn.Module) -> float:
        """Accumulates the gradients of all paths of the step."""
        supernet = self.model
        assert isinstance(supernet, Supernet)
        paths = PATHS[self.recipe.sampling](supernet.space, self.seed, self.step)  # type: ignore[union-attr]
        total = 0.0
        for path in paths:
            chosen = enumerate(zip(path.architecture, path.learns))
            resting = [supernet.candidate(i, name) for i, (name, learns) in chosen if not learns]
            for candidate in filter(None, resting):
                candidate.requires_grad_(False)
            forward = functools.partial(supernet, images, path.architecture)
            total += self._backward(forward, labels, loss_function, len(paths))
            for candidate in filter(None, resting):
                candidate.requires_grad_(True)
        return total

    def _backward(
        self, forward: Callable[[], Tensor], labels: Tensor, loss_function: nn.Module, parts: int
    ) -> float:
        half = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = forward()
        loss = loss_function(logits.float(), labels) / parts
        loss.backward()
        return loss.item()

    def shipped(self) -> nn.Module:
        """The network to evaluate: the averaged weights where the recipe averages."""
        return self.model if self.averaged is None else self.averaged.module

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.module.state_dict(),
            "step": self.step,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state.

        Raises:
            UserError: The state is of another network or seed.
        """
        if not isinstance(state, dict) or not self.state_dict().keys() <= state.keys():
            raise UserError("the file is no checkpoint of a training")
        if state["seed"] != self.seed:
            raise UserError(f"seed: {self.seed} differs from the checkpoint's {state['seed']}")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.module.load_state_dict(state["averaged"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the checkpoint is of another network or recipe: {reason}") from None
        self.step = state["step"]


def fit(
    trainer: Trainer,
    batches: Batches,
    checkpoint: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Trains to the end of the recipe, from the checkpoint where there is one.

    The full state is saved after every epoch, and on SIGINT or SIGTERM before `KeyboardInterrupt`
    is raised.

    Args:
        checkpoint: File to resume from and to save to; None saves nothing.
        on_step: Called with the steps done and the step's loss.
        on_epoch: Called with the epochs done and the epoch's mean loss.

    Raises:
        KeyboardInterrupt: The run was asked to stop; its state is saved.
    """
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, trainer.device)
        try:
            trainer.load_state_dict(state)
        except UserError as error:
            raise UserError(f"{checkpoint}: {error}") from None
    with stop_requested() as stopped:
        while trainer.step < trainer.total_steps:
            epoch, start = divmod(trainer.step, trainer.steps_per_epoch)
            losses = []
            for images, labels in batches.epoch(epoch, start):
                losses.append(trainer.train_step(images, labels))
                if on_step is not None:
                    on_step(trainer.step, losses[-1])
                if stopped():
                    if checkpoint is not None and is_main_process():
                        save_checkpoint(checkpoint, trainer.state_dict())
                    raise KeyboardInterrupt
            if checkpoint is not None and is_main_process():
                save_checkpoint(checkpoint, trainer.state_dict())
            if on_epoch is not None:
                on_epoch(epoch + 1, float(np.mean(losses)))


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop asks when it can stop cleanly."""
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


def anneal(model: nn.Module, progress: float) -> None:
    """Tells the operators that change with the training which share of it is done."""
    for module in model.modules():
        change = getattr(module, "anneal", None)
        if change is not None:
            change(progress)


def seed_everything(seed: int, step: int) -> None:
    """Seeds Python, NumPy and PyTorch with one number drawn from (seed, step)."""
    number = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def average_over_processes(model: nn.Module, loss: float) -> float:
    """Averages gradients over the processes of a distributed run, where there is one.

    All processes take the same paths, so the same parameters have gradients everywhere; unlike
    DistributedDataParallel this needs no search for unused parameters.

    Returns:
        The average loss, the same everywhere: if it is not finite, all processes learn of it.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return loss
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([loss])])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    parts = together[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return together[-1].item()


def is_main_process() -> bool:
    """Whether this process writes files: the first one, or the only one."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


def _mixup(recipe: Recipe, model: nn.Module) -> Any:
    mixup, cutmix = getattr(recipe, "mixup", 0.0), getattr(recipe, "cutmix", 0.0)
    if not mixup and not cutmix:
        return None
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=model.num_classes,  # type: ignore[arg-type]
    )


def _averaged(recipe: Recipe, model: nn.Module) -> Any:
    decay = getattr(recipe, "ema_decay", 0.0)
    if not decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


def _random_erasing(recipe: Recipe, device: torch.device) -> Any:
    if not recipe.random_erasing:
        return None
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(recipe.random_erasing, mode="pixel", device=str(device))
