"""The memory of any architecture of a space, calculated from what its layers need one by one.

A network needs most at one moment: while a part of it runs, all weights are there, what this part
makes, and the maps that are still held: the images, what came out of the stem, what went into the
stage, and what went into the part. Skipped layers make these maps one and the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evaluators.complexity import live_bytes
from evaluators.runtime import deployed
from search_space import Architecture, SearchSpace, build_network
from search_space.network import Network


@dataclass(frozen=True)
class Need:
    """Bytes of a part: its weights, what it makes at its peak, and the map that it leaves."""

    weights: int
    made: int
    left: int


class MemoryTable:
    """`peak_memory_mb` of the architectures of a space as they are shipped, but for CUDA.

    Called with an architecture in canonical form it returns MB, exactly, without building it.

    Args:
        batch: Images of the forward pass.
    """

    def __init__(self, space: SearchSpace, batch: int) -> None:
        self._space = space
        shape = (batch, space.in_channels, space.input_size, space.input_size)
        self._layers: list[dict[str, Need]] = [{} for _ in space.layers]
        for turn in range(max(len(layer.candidates) for layer in space.layers)):
            names = tuple(layer.candidates[turn % len(layer.candidates)] for layer in space.layers)
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                network = build_network(space, names)
            self._stem, *needs, self._rest = _needs(network, shape)
            for layer, name, need in zip(self._layers, names, needs):
                layer[name] = need
        self._images = torch.empty(shape, device="meta").untyped_storage().nbytes()

    def __call__(self, architecture: Architecture) -> float:
        needs = [layer[name] for layer, name in zip(self._layers, architecture)]
        weights = sum(need.weights for need in (self._stem, *needs, self._rest))
        peak = self._images + self._stem.made
        stem = into_stage = x = _Map(0, self._stem.left)
        layers = self._space.layers
        for index, (layer, name, need) in enumerate(zip(layers, architecture, needs)):
            if index and layer.stage != layers[index - 1].stage:
                into_stage = x
            if self._space.is_skip(name) and layer.keeps_shape:
                continue
            held = {each.number: each.size for each in (stem, into_stage, x)}
            peak = max(peak, self._images + sum(held.values()) + need.made)
            x = _Map(index + 1, need.left)
        peak = max(peak, self._images + x.size + self._rest.made)
        return (weights + peak) / 1e6


@dataclass(frozen=True)
class _Map:
    """A tensor between layers: which one, and how many bytes."""

    number: int
    size: int


def _needs(network: Network, shape: Sequence[int]) -> list[Need]:
    """Return what each of `Network.parts` needs, as shipped."""
    needs, x = [], torch.empty(shape, device="meta")
    for part in network.parts:
        shipped = deployed(part)
        tensors = [*shipped.parameters(), *shipped.buffers()]
        weights = sum(t.untyped_storage().nbytes() for t in tensors)
        before = weights + x.untyped_storage().nbytes()
        peak, x = live_bytes(shipped, x)
        needs.append(Need(weights, peak - before, x.untyped_storage().nbytes()))
    return needs
