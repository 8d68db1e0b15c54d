"""What is particular to training image classifiers: the loss, and what happens to a batch.

The trainer knows no task. Another one needs what is here in its own form: a loss, perhaps a
transform of batches, and a metric in place of `evaluators.accuracy`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from configs.schema import Recipe, Retrain, Train
from evaluators.complexity import smallest_and_largest
from search_space import ChoiceSpace, SearchSpace
from search_space.network import Network
from supernet import Supernet, Trainer
from supernet.paths import TrainingPath, fair_paths, sandwich_paths, uniform_paths

if TYPE_CHECKING:
    from timm.data import Mixup

Paths = Sequence[TrainingPath]


def supernet_trainer(supernet: Supernet, recipe: Train, steps_per_epoch: int, seed: int) -> Trainer:
    """Return the trainer of a supernet: every step takes the paths of the recipe's sampling."""
    return Trainer(
        supernet,
        recipe,
        steps_per_epoch,
        seed,
        loss=ClassificationLoss(recipe.label_smoothing),
        paths=partial(path_sampling(recipe.sampling, supernet.space), supernet.space, seed),
        path_gradients=recipe.path_gradients,
        teach=partial(torch.softmax, dim=1) if recipe.distill else None,
        transform=BatchTransform(recipe, next(supernet.parameters()).device),
        ema_decay=recipe.ema_decay,
    )


def path_sampling(name: str, space: SearchSpace) -> Callable[[ChoiceSpace, int, int], Paths]:
    """Return the paths of a step as a function of space, seed and the step's number."""
    if name == "sandwich":
        return partial(sandwich_paths, smallest_and_largest(space))
    return {"fair": fair_paths, "uniform": uniform_paths}[name]


def network_trainer(network: Network, recipe: Retrain, steps_per_epoch: int, seed: int) -> Trainer:
    """Return the trainer of a stand-alone network.

    Where it inherits the supernet's weights, temperatures stay where the supernet's training ended.
    """
    mixup = None
    if recipe.mixup or recipe.cutmix:
        from timm.data import Mixup

        mixup = Mixup(
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=network.num_classes,
        )
    return Trainer(
        network,
        recipe,
        steps_per_epoch,
        seed,
        loss=ClassificationLoss(recipe.label_smoothing),
        transform=BatchTransform(recipe, next(network.parameters()).device, mixup),
        anneal=not recipe.inherit,
        ema_decay=recipe.ema_decay,
    )


class ClassificationLoss(nn.Module):
    """Cross entropy of (B, classes) logits with either kind of target, as torch's own takes both.

    Integers (B,) are labels, which are smoothed here. Floats (B, classes) are probabilities, which
    Mixup has smoothed already.
    """

    def __init__(self, label_smoothing: float) -> None:
        from timm.loss import SoftTargetCrossEntropy

        super().__init__()
        self.hard = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.soft = SoftTargetCrossEntropy()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (self.soft if targets.is_floating_point() else self.hard)(logits, targets)


class BatchTransform:
    """Random erasing, then Mixup or CutMix, which turn labels into probabilities."""

    def __init__(self, recipe: Recipe, device: torch.device, mixup: Mixup | None = None) -> None:
        self.mixup = mixup
        self.erase = None
        if recipe.random_erasing:
            from timm.data.random_erasing import RandomErasing

            self.erase = RandomErasing(recipe.random_erasing, mode="pixel", device=str(device))

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.erase is not None:
            images = self.erase(images)
        if self.mixup is None:
            return images, targets
        count = len(images)
        if count % 2:  # timm mixes pairs, first and last: the one in the middle has no partner
            middle = slice(count // 2, count // 2 + 1)
            images = torch.cat([images, images[middle]])
            targets = torch.cat([targets, targets[middle]])
        images, targets = self.mixup(images, targets)
        return images[:count], targets[:count]
