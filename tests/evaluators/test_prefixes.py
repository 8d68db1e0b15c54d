"""Architectures that begin alike: the same values, bit for bit, with less work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from spaces import randomize_norms, small_config, small_space, space_values
from torch import nn

from configs import load_config
from evaluators import recalibrate
from evaluators.accuracy import read_by_batch
from evaluators.prefixes import EVERY, Prefixes
from experiments.data.splits import Splits, load_splits
from search_space import Architecture, SearchSpace
from supernet import Supernet, seed_everything


def batches_of(config) -> Splits:
    splits = load_splits(config, "cpu")
    return dataclasses.replace(splits, validation=splits.halves[0])


def values(network: nn.Module, splits: Splits, recalibrating, reading) -> tuple:
    """All that a reading gives: hits of each batch, and the buffers that recalibration leaves."""
    recalibrating(network, splits.calibration)
    hits = list(reading(network, splits.validation))
    buffers = {key: value.clone() for key, value in network.named_buffers()}
    with torch.no_grad():
        logits = [network(images) for images, _ in splits.validation]
    return hits, buffers, logits, network.training


def plain_and_shared(
    supernet: Supernet, architecture: Architecture, splits: Splits, prefixes: Prefixes
) -> tuple:
    plain = values(supernet.extract(architecture), splits, recalibrate, read_by_batch)
    shared = values(
        supernet.extract(architecture),
        splits,
        lambda *args: prefixes.recalibrate(architecture, *args),
        lambda *args: prefixes.read_by_batch(architecture, *args),
    )
    return plain, shared


def assert_identical(plain: tuple, shared: tuple) -> None:
    assert plain[0] == shared[0] and plain[3] == shared[3]
    assert plain[1].keys() == shared[1].keys()
    assert all(torch.equal(plain[1][key], shared[1][key]) for key in plain[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[2], shared[2]))


def supernet_of(space: SearchSpace) -> Supernet:
    seed_everything(0, 0)
    supernet = Supernet(space).eval()
    randomize_norms(supernet)
    return supernet


def test_values_are_those_of_the_plain_evaluation_on_quickstart() -> None:
    config = load_config("quickstart", ["evaluate.batch_size=64"])
    space = SearchSpace(config.space)
    supernet, splits = supernet_of(space), batches_of(config)
    assert len(splits.validation) > 3 and len(splits.calibration) > 3
    prefixes, rng = Prefixes(space, 256), np.random.default_rng(0)
    for _ in range(6):
        first = space.sample(rng)
        for architecture in (first, space.mutate(first, rng), first):
            assert_identical(*plain_and_shared(supernet, architecture, splits, prefixes))


@pytest.mark.parametrize("block", ["bottleneck", "inverted_residual", "ghost_residual"])
def test_every_operator_may_begin(block: str) -> None:
    space = small_space(
        block,
        stages=[
            {"width": 16, "depth": 3, "stride": 1, "block": block, "expansion": 2},
            {"width": 24, "depth": 3, "stride": 2, "block": block, "expansion": 2},
        ],
    )
    config = small_config(space=space.to_dict()["space"], data={"limit": 300},
                          evaluate={"calibration_images": 64, "batch_size": 32})  # fmt: skip
    supernet, splits, prefixes = supernet_of(space), batches_of(config), Prefixes(space, 64)
    names = [name for name in space.layers[0].candidates if name != "skip"]
    for name in names:
        for last in ("conv3", "inv3", "skip"):
            architecture = space.canonical((name,) * 4 + ("sk", last))
            assert_identical(*plain_and_shared(supernet, architecture, splits, prefixes))


class Calls:
    """Counts how often the layers of a network are called."""

    def __init__(self, network: nn.Module) -> None:
        self.counts = [0] * len(network.parts)
        for number, part in enumerate(network.parts[:-1]):
            part.register_forward_pre_hook(lambda *_, number=number: self._count(number))

    def _count(self, number: int) -> None:
        self.counts[number] += 1


def read(
    supernet: Supernet, architecture: Architecture, splits: Splits, prefixes: Prefixes
) -> list[int]:
    network = supernet.extract(architecture)
    calls = Calls(network)
    prefixes.recalibrate(architecture, network, splits.calibration)
    list(prefixes.read_by_batch(architecture, network, splits.validation))
    return calls.counts


def deep(limit_mb: int) -> tuple[Supernet, Splits, Prefixes]:
    stages = [{"width": 16, "depth": 8, "stride": 1, "expansion": 2}]
    values = space_values(candidates=("conv3", "dw5", "skip"), stages=stages)
    config = small_config(space=values, data={"limit": 300},
                          evaluate={"calibration_images": 64, "batch_size": 32})  # fmt: skip
    space = SearchSpace(config.space)
    return supernet_of(space), batches_of(config), Prefixes(space, limit_mb)


def test_layers_before_the_first_difference_are_not_computed_again() -> None:
    supernet, splits, prefixes = deep(limit_mb=64)
    one = len(splits.calibration) + len(splits.validation)
    first = ("conv3",) * 8
    assert read(supernet, first, splits, prefixes) == [one] * 9 + [0]
    assert read(supernet, first, splits, prefixes) == [0] * 7 + [one] * 2 + [0]
    late = ("conv3",) * 4 + ("dw5",) * 4  # alike for 4 layers, of which 3 are kept
    assert read(supernet, late, splits, prefixes) == [0] * 4 + [one] * 5 + [0]
    skipped = ("conv3",) * 3 + ("skip",) * 5
    counts = read(supernet, skipped, splits, prefixes)
    assert sum(counts[:4]) == 0 and EVERY == 3
    early = ("dw5",) + ("conv3",) * 7
    assert read(supernet, early, splits, prefixes) == [one] * 9 + [0]


def test_memory_is_limited() -> None:
    supernet, splits, prefixes = deep(limit_mb=1)
    read(supernet, ("conv3",) * 8, splits, prefixes)
    kept = prefixes._known.size
    assert 0 < kept <= 2**20
    read(supernet, ("dw5",) * 8, splits, prefixes)
    read(supernet, ("dw5", "conv3") * 4, splits, prefixes)
    assert prefixes._known.size <= 2**20
    architecture = ("conv3",) * 7 + ("dw5",)
    assert_identical(*plain_and_shared(supernet, architecture, splits, prefixes))
    nothing = Prefixes(prefixes._space, 0)
    read(supernet, architecture, splits, nothing)
    assert nothing._known.size == 0


def test_only_batches_that_were_read_are_kept() -> None:
    supernet, splits, prefixes = deep(limit_mb=64)
    architecture = ("conv3",) * 8
    network = supernet.extract(architecture)
    prefixes.recalibrate(architecture, network, splits.calibration)
    before = prefixes._known.size
    reading = prefixes.read_by_batch(architecture, network, splits.validation)
    next(reading)
    after_one = prefixes._known.size - before
    assert after_one > 0
    list(reading)
    assert prefixes._known.size - before > (len(splits.validation) - 1.5) * after_one
