"""How a network is trained, one step at a time: the supernet and stand-alone networks alike.

A step is a pure function of the weights, the batch, the seed, the step's number and the process's:
random numbers are seeded anew for each step. So a checkpoint holds weights, optimizer and the
number of steps done, and a resumed run continues bit for bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from configs.errors import UserError
from configs.suggestions import did_you_mean
from supernet.distributed import average_over_processes, process_rank
from supernet.paths import TrainingPath
from supernet.supernet import Supernet, SupernetLayer

if TYPE_CHECKING:
    from configs.schema import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> a scalar
Paths = Callable[[int], Sequence[TrainingPath]]  # the step's number -> the paths it takes
Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of a batch, on the device
Teach = Callable[[Tensor], Tensor]  # the outputs of a path -> targets for others


class Diverged(UserError):
    """A training has gone wrong, by a step that was too large.

    Args:
        what: What happened, in words.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; try a smaller learning_rate or clip_grad. The last checkpoint is kept."
        )
        self.what = what


@runtime_checkable
class Annealed(Protocol):
    """A module that changes with the training, such as an operator with a temperature.

    Any module with this method is one; the trainer calls it before every step.
    """

    def anneal(self, progress: float) -> None:
        """Take the setting for this share of the training, from 0 (its first step) towards 1."""


class Trainer:
    """A network with its optimizer and schedule.

    It knows nothing of the task: what a batch means is in `loss` and `transform`.

    What is saved: weights and buffers (dynamic convolution's temperature among them), optimizer,
    averaged weights, steps done, how often it was taken back, and the seed, which must be the same
    on resuming.

    Args:
        model: The network, on its device.
        recipe: Optimizer, schedule and precision.
        steps_per_epoch: Optimizer steps per epoch, for the schedule.
        seed: Seed of whatever a step draws: augmentation, dropout.
        loss: Called with the network's outputs in float32 and the targets.
        paths: The paths of a `Supernet` that a step takes, as many in every step. None for a
            network that is called with images alone.
        path_gradients: Whether a step is the mean or the sum of its paths' gradients. Under `mean`
            a candidate that learns on one of m paths takes an m-th of its gradient, and so of its
            weight decay: their proportion is that of a step of one path.
        teach: Makes targets for the other paths of a step from the outputs of the first, which
            alone learns from those of the batch: in-place distillation
            (https://arxiv.org/abs/1903.05134, section 3.3). None: all learn from the batch's.
        transform: What happens to a batch on the device: (images, targets) to the same.
        anneal: Whether `Annealed` modules follow this training. False leaves them where the
            weights that it starts from were trained to.
        ema_decay: Decay of the averaged weights that are shipped; 0 ships the last iterate.

    Raises:
        UserError: timm has no such optimizer, or it cannot take the recipe.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        seed: int,
        *,
        loss: Loss,
        paths: Paths | None = None,
        path_gradients: Literal["mean", "sum"] = "sum",
        teach: Teach | None = None,
        transform: Transform | None = None,
        anneal: bool = True,
        ema_decay: float = 0.0,
    ) -> None:
        self.model, self.recipe, self.seed = model, recipe, seed
        self.loss, self.paths, self.teach, self.transform = loss, paths, teach, transform
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = recipe.epochs * steps_per_epoch
        self.step = self.rollbacks = 0
        self.device = next(model.parameters()).device
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(model, recipe)
        self._path_share = 1.0  # of a path's gradient in the step
        if paths is not None and path_gradients == "mean":
            self._path_share = 1 / len(paths(0))
            _scale_decay(self.optimizer, _candidate_parameters(model), self._path_share)
        self.averaged = _averaged(model, ema_decay) if ema_decay else None
        averaged = () if self.averaged is None else self.averaged.module.modules()
        self._annealed = _annealed(model.modules()) if anneal else []
        self._annealed_average = _annealed(averaged) if anneal else []

    def train_step(self, images: Tensor, targets: Tensor) -> float:
        """Take one optimizer step and return the mean loss over the step's paths.

        Raises:
            Diverged: The loss is no longer finite.
        """
        seed_everything(self.seed, self.step, process_rank())
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        progress = self.step / self.total_steps
        for module in self._annealed:
            module.anneal(progress)
        if self.transform is not None:
            images, targets = self.transform(images, targets)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        self.optimizer.zero_grad(set_to_none=True)  # unsampled candidates must not move
        loss = average_over_processes(self.model, self._backward(images, targets))
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss} at step {self.step}")
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update(self.model, step=self.step)
            for module in self._annealed_average:  # a setting: its average would lag behind
                module.anneal(progress)
        self.step += 1
        return loss

    def _backward(self, images: Tensor, targets: Tensor) -> float:
        """Leave the step's gradients in the parameters and return its loss."""
        if self.paths is None:
            loss, _ = self._accumulate(targets, 1.0, images)
            return loss
        supernet = cast(Supernet, self.model)  # nothing else has paths
        paths = self.paths(self.step)
        total = 0.0
        for path in paths:
            with supernet.learning(path):
                loss, outputs = self._accumulate(
                    targets, self._path_share, images, path.architecture
                )
            total += loss
            if self.teach is not None and path is paths[0]:
                targets = self.teach(outputs)
        return total / len(paths)

    def _accumulate(self, targets: Tensor, share: float, *inputs: Any) -> tuple[float, Tensor]:
        """Add a share of a loss's gradients to those of the step; return loss and outputs."""
        half = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = self.model(*inputs)
        outputs = outputs.float()
        loss = self.loss(outputs, targets)
        (loss * share).backward()
        return loss.item(), outputs.detach()

    @property
    def learning_rate(self) -> float:
        """The rate of the step that comes next."""
        recipe = self.recipe
        warmup = int(min(recipe.warmup_epochs, recipe.epochs / 2) * self.steps_per_epoch)
        peak = recipe.learning_rate * self.rate_scale
        return peak * schedule(self.step, self.total_steps, warmup)

    def check_weights(self) -> None:
        """Refuse weights that a step has spoilt; its loss was that of the weights before it.

        Raises:
            Diverged: A parameter or a buffer is not finite.
        """
        for network in {self.model, self.shipped()}:
            for key, value in network.state_dict().items():
                if not torch.isfinite(value).all():
                    raise self.diverged(f"{key} is not finite after step {self.step - 1}")

    def diverged(self, what: str) -> Diverged:
        """Return an error that says at which learning rate something happened."""
        return Diverged(f"{what} (learning rate {self.optimizer.param_groups[0]['lr']:.3g})")

    @property
    def rate_scale(self) -> float:
        """The share of the recipe's learning rate that is taken: each rollback halves it."""
        return 0.5**self.rollbacks

    def shipped(self) -> nn.Module:
        """Return the network to evaluate: the averaged weights where there are such."""
        return self.model if self.averaged is None else self.averaged.module

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to continue; the tensors are not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.module.state_dict(),
            "step": self.step,
            "seed": self.seed,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

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
        self.step, self.rollbacks = state["step"], state["rollbacks"]


def schedule(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step, counted from 0.

    It rises linearly for `warmup` steps, is 1 right after them, and falls along a cosine to 0 at
    the last of all `steps`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - 1 - warmup, 1)
    return (1 + math.cos(math.pi * done)) / 2


def seed_everything(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch with one number drawn from all of these."""
    number = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, list_optimizers

    try:
        return create_optimizer_v2(
            model,
            opt=recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
        )
    except ValueError as error:
        hint = did_you_mean(recipe.optimizer, map(str, list_optimizers()))
        raise UserError(f"optimizer: {recipe.optimizer!r} fails ({error}); {hint}") from None


def _annealed(modules: Iterable[nn.Module]) -> list[Annealed]:
    return [module for module in modules if isinstance(module, Annealed)]


def _candidate_parameters(supernet: nn.Module) -> set[nn.Parameter]:
    """Return what belongs to single candidates: the rest is shared by all paths."""
    layers = cast(Supernet, supernet).layers
    return {p for layer in layers for p in cast(SupernetLayer, layer).candidates.parameters()}


def _scale_decay(
    optimizer: torch.optim.Optimizer, parameters: set[nn.Parameter], factor: float
) -> None:
    """Give some parameters groups of their own, with their weight decay times a factor."""
    for group in list(optimizer.param_groups):
        chosen = [p for p in group["params"] if p in parameters]
        if factor != 1 and chosen and group["weight_decay"]:
            group["params"] = [p for p in group["params"] if p not in parameters]
            decay = group["weight_decay"] * factor
            optimizer.add_param_group({**group, "params": chosen, "weight_decay": decay})


def _averaged(model: nn.Module, decay: float) -> Any:
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)
