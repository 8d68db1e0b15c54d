"""Accuracy with inherited weights: recalibrated as by hand, and the same wherever it is asked."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from spaces import (
    random_images,
    random_labels,
    randomize_norms,
    small_space,
    space_values,
    state_of,
)
from torch import nn

from configs.schema import Train
from evaluators import inherited_accuracy, measure_accuracy, recalibrate
from evaluators.accuracy import too_few_images
from experiments.classification import supernet_trainer
from search_space import SearchSpace, build_network
from supernet import Supernet, save_weights, seed_everything

ARCHITECTURE = ("inv3", "dyn3", "sk", "ghost3")


def class_images(batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of ten patterns, so that there is something to know."""
    labels = random_labels(batch, seed=seed)
    return random_images(10, seed=99)[labels] + 2 * random_images(batch, seed=seed), labels


CALIBRATION = [class_images(16, seed) for seed in range(3)]
VALIDATION = [class_images(50, seed) for seed in range(9, 13)]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """Trained for a moment, so that accuracies differ between architectures."""
    seed_everything(0, 0)
    recipe = Train(epochs=1, batch_size=16, learning_rate=0.05, sampling="uniform")
    trainer = supernet_trainer(Supernet(small_space()), recipe, 90, 0)
    for step in range(90):
        trainer.train_step(*class_images(16, 100 + step))
    return trainer.model.eval()


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {key: m for key, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize("block", ["bottleneck", "inverted_residual", "ghost_residual"])
@torch.no_grad()
def test_statistics_are_the_average_over_batches(block: str) -> None:
    seed_everything(0, 0)
    network = build_network(small_space(block), ARCHITECTURE).double()
    randomize_norms(network)
    batches = [(images.double(), labels) for images, labels in CALIBRATION]
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        norm.register_forward_pre_hook(
            lambda _, inputs, key=key: seen.setdefault(key, []).append(inputs[0].clone())
        )
        for key, norm in norms(network).items()
    ]
    network.train()
    for images, _ in batches:
        network(images)
    for hook in hooks:
        hook.remove()

    recalibrate(network, iter(batches))
    assert not network.training
    assert len(seen) == len(norms(network)) > 10
    for key, norm in norms(network).items():
        batch_values = [x.transpose(0, 1).flatten(1) for x in seen[key]]
        mean = sum(x.mean(1) for x in batch_values) / 3
        variance = sum(x.var(1, unbiased=True) for x in batch_values) / 3
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-9, atol=1e-9)
        assert norm.momentum == 0.1
        assert norm.num_batches_tracked == 3


def test_recalibration_changes_statistics_only(supernet) -> None:
    network = supernet.extract(ARCHITECTURE)
    before = state_of(network)
    recalibrate(network, CALIBRATION)
    for key, value in network.state_dict().items():
        statistic = key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(value, before[key]) != statistic, key


def test_accuracy_counts_hits_over_uneven_batches() -> None:
    class Guess(nn.Module):
        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return scores

    scores = torch.eye(10)[random_labels(70, seed=3)]
    labels = random_labels(70, seed=4)
    hits = (scores.argmax(1) == labels).sum().item()
    batches = list(zip(scores.split(32), labels.split(32)))
    assert measure_accuracy(Guess().train(), batches) == pytest.approx(100 * hits / 70)
    assert measure_accuracy(Guess(), [(scores, scores.argmax(1))]) == 100


def test_the_same_value_whatever_happened_in_between(supernet) -> None:
    first = inherited_accuracy(supernet, ARCHITECTURE, CALIBRATION, VALIDATION)
    others = {
        inherited_accuracy(supernet, (name, "conv3", name, "skip"), CALIBRATION, VALIDATION)
        for name in ("conv3", "inv3", "sk", "dw5")
    }
    assert len({first, *others}) > 2  # values tell architectures apart
    seed_everything(5, 5)
    other = copy.deepcopy(supernet).train()
    randomize_statistics(other)  # they mix all paths, so they must not matter
    assert inherited_accuracy(other, ARCHITECTURE, CALIBRATION, VALIDATION) == first
    assert other.training and not supernet.training


@torch.no_grad()
def randomize_statistics(supernet: Supernet) -> None:
    for norm in norms(supernet).values():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)


def test_calibration_matters(supernet) -> None:
    shifted = [(3 * images + 2, labels) for images, labels in CALIBRATION]
    values = [inherited_accuracy(supernet, ARCHITECTURE, c, VALIDATION)
              for c in (CALIBRATION, shifted)]  # fmt: skip
    assert values[0] != values[1]


PROGRAM = """
import sys
from pathlib import Path
import test_accuracy as t
from search_space import SearchSpace
from supernet import Supernet
from supernet.checkpoint import load_weights
supernet = Supernet(SearchSpace.from_yaml("space.yaml"))
load_weights(Path("weights.safetensors"), supernet)
value = t.inherited_accuracy(supernet, t.ARCHITECTURE, t.CALIBRATION, t.VALIDATION)
logits = supernet.extract(t.ARCHITECTURE)
t.recalibrate(logits, t.CALIBRATION)
print(repr(value), repr(float(logits(t.VALIDATION[0][0]).detach().double().sum())))
"""


def test_the_same_value_bit_for_bit_in_a_fresh_process(supernet, tmp_path) -> None:
    save_weights(tmp_path / "weights.safetensors", supernet)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"space": space_values()}, sort_keys=False))
    assert SearchSpace.from_yaml(tmp_path / "space.yaml") == supernet.space
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    places = (root, here, root / "tests" / "helpers")
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, check=True, timeout=300,
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
    ).stdout  # fmt: skip
    accuracy = inherited_accuracy(supernet, ARCHITECTURE, CALIBRATION, VALIDATION)
    network = supernet.extract(ARCHITECTURE)
    recalibrate(network, CALIBRATION)
    assert output.split() == [
        repr(accuracy), repr(float(network(VALIDATION[0][0]).detach().double().sum())),
    ]  # fmt: skip


@pytest.mark.parametrize(("images", "precise"), [(144, False), (5101, False), (5103, True)])
def test_too_few_images_are_said_to_be_too_few(images: int, precise: bool) -> None:
    warning = too_few_images(images)
    assert (warning == "") == precise
    if warning:
        assert str(images) in warning and f"{50 / images**0.5:.2f} points" in warning
