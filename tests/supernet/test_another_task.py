"""The trainer knows no task: another one needs its data, its loss and its metric, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from spaces import small_space
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Recipe
from evaluators.accuracy import recalibrate
from search_space import build_network
from supernet import Supernet, Trainer, fair_paths, fit, seed_everything, uniform_paths

RECIPE = Recipe(epochs=4, batch_size=32, learning_rate=0.05)
CANDIDATES = ("conv3", "inv3", "skip")
Batch = tuple[Tensor, Tensor]


class Drawn:
    """Batches of a task, each a function of its number."""

    steps_per_epoch = 30

    def __init__(self, draw: Callable[[torch.Generator], Batch]) -> None:
        self.draw = draw

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps_per_epoch):
            yield self.draw(torch.Generator().manual_seed(1 + 1000 * epoch + step))

    def held_out(self) -> Batch:
        return self.draw(torch.Generator().manual_seed(0))


# Regression on a supernet: where is the bright spot?


def spots(generator: torch.Generator) -> Batch:
    """(32, 1, 8, 8) noise with a bright pixel, and its (32, 2) row and column on a scale of 0-1."""
    images = 0.1 * torch.randn(32, 1, 8, 8, generator=generator)
    places = torch.randint(0, 8, (32, 2), generator=generator)
    images[torch.arange(32), 0, places[:, 0], places[:, 1]] += 8
    return images, places / 7


@pytest.mark.parametrize("sampling", [fair_paths, uniform_paths])
def test_a_supernet_learns_a_regression(sampling, tmp_path) -> None:
    seed_everything(0, 0)
    space = small_space(candidates=CANDIDATES, num_classes=2)
    supernet, task = Supernet(space), Drawn(spots)
    trainer = Trainer(supernet, RECIPE, task.steps_per_epoch, seed=0,
                      loss=F.mse_loss, paths=partial(sampling, space, 0))  # fmt: skip
    fit(trainer, task, tmp_path / "checkpoint.pt")

    images, places = task.held_out()
    errors = {}
    for name in ("conv3", "inv3"):
        network = supernet.extract((name,) * len(space.layers))
        recalibrate(network, task.epoch(0))
        with torch.no_grad():
            errors[name] = F.mse_loss(network(images), places).item()
    assert max(errors.values()) < 0.5 * places.var().item(), errors


# Segmentation on a stand-alone network: which pixels belong to the square?


class Segmenter(nn.Module):
    """A found network's features, and a logit per pixel of the image."""

    def __init__(self) -> None:
        super().__init__()
        space = small_space(candidates=CANDIDATES)
        self.body = build_network(space, ("conv3", "inv3", "conv3", "inv3"), num_classes=0)
        self.logits = nn.Conv2d(self.body.num_features, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.logits(self.body.forward_features(images))
        return F.interpolate(maps, images.shape[2:], mode="bilinear")


def squares(generator: torch.Generator) -> Batch:
    """(32, 1, 8, 8) noise with a brighter 4x4 square, and its (32, 1, 8, 8) mask of 0 and 1."""
    masks = torch.zeros(32, 1, 8, 8)
    for mask, (row, column) in zip(masks, torch.randint(0, 5, (32, 2), generator=generator)):
        mask[:, row : row + 4, column : column + 4] = 1
    return 2 * masks + 0.5 * torch.randn(masks.shape, generator=generator), masks


def flipped(images: Tensor, masks: Tensor) -> Batch:
    """Flip half of the batch, each mask with its image."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return images.where(~mirrored, images.flip(3)), masks.where(~mirrored, masks.flip(3))


def overlap(logits: Tensor, masks: Tensor) -> float:
    """Return intersection over union of the predicted and the true pixels."""
    predicted, true = logits > 0, masks > 0
    return ((predicted & true).sum() / (predicted | true).sum()).item()


def test_a_network_learns_a_segmentation() -> None:
    seed_everything(0, 0)
    model, task = Segmenter(), Drawn(squares)
    loss = F.binary_cross_entropy_with_logits
    trainer = Trainer(model, RECIPE, task.steps_per_epoch, seed=0,
                      loss=loss, transform=flipped, ema_decay=0.9)  # fmt: skip
    images, masks = task.held_out()
    fit(trainer, task)
    with torch.no_grad():
        assert overlap(trainer.shipped().eval()(images), masks) > 0.7
        assert overlap(torch.ones_like(masks), masks) < 0.3  # what a guess gets
