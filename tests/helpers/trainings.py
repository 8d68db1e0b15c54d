"""Small trainings that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from spaces import random_images, random_labels, small_space
from torch import Tensor

from configs.schema import Retrain, Train
from experiments import programs
from experiments.classification import network_trainer, supernet_trainer
from search_space import SearchSpace, build_network
from supernet import Supernet, Trainer, seed_everything


def one_program(patch: pytest.MonkeyPatch) -> None:
    """Export for the searched batch alone: exports take most of a retraining this small."""
    patch.setattr(programs, "PROGRAMS", {"model.onnx": "onnxruntime"})


class FixedBatches:
    """Five batches an epoch, each a function of its number."""

    steps_per_epoch = 5

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, self.steps_per_epoch):
            seed = 100 * epoch + step
            yield random_images(8, seed=seed), random_labels(8, seed=seed)


def unequal_space() -> SearchSpace:
    """Layers of eight, eight, one and three candidates."""
    return small_space(
        stages=[
            {"width": 16, "depth": 2, "expansion": 2},
            {"width": 24, "depth": 1, "stride": 2, "expansion": 2, "candidates": ["conv3"]},
            {"width": 24, "depth": 1, "expansion": 2, "candidates": ["inv3", "dyn3", "skip"]},
        ]
    )


def new_trainer(kind: str = "fair", seed: int = 0, **recipe: Any) -> Trainer:
    """A supernet for `fair` and `uniform`; `alone` is a stand-alone network."""
    seed_everything(seed, 0)
    common = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **recipe}
    if kind == "alone":
        network = build_network(small_space(), ("dyn3", "skip", "inv3", "sk"))
        return network_trainer(network, Retrain(**common), FixedBatches.steps_per_epoch, seed)
    supernet = Supernet(unequal_space())
    sampled = Train(sampling=kind, **common)  # type: ignore[arg-type]
    return supernet_trainer(supernet, sampled, FixedBatches.steps_per_epoch, seed)


def one_step(trainer: Trainer) -> float:
    return trainer.train_step(random_images(), random_labels())


def full_state(trainer: Trainer) -> dict[str, Any]:
    """Everything a checkpoint holds, flattened to name -> value."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                walk(f"{prefix}.{index}", inner)
        else:
            flat[prefix] = value.detach().clone() if isinstance(value, Tensor) else value

    walk("", trainer.state_dict())
    walk("shipped", dict(trainer.shipped().state_dict()))
    return flat


def assert_identical(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, key
