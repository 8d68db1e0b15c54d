"""Architectures that begin alike: the activations up to the first difference are used again.

The statistics of a batch norm are made of what the layers before it give in training mode, so both
belong to the beginning of an architecture, whatever follows. Values are equal bit for bit to those
of `recalibrate` and `read_by_batch`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evaluators.accuracy import Reading, read_answers
from evaluators.calibration import SizedBatches, averaging, batch_norms
from evaluators.device_lock import shared_device
from evaluators.recent import Recent
from search_space.network import Network
from search_space.space import Architecture, SearchSpace

# Kept is what comes out of each third layer: in simulated searches of cifar10_cpu a gigabyte of it
# saved more layers (7 to 17 %) than a gigabyte of what comes out of every layer (4 to 13 %).
EVERY = 3


@dataclass(frozen=True)
class Beginning:
    """What the first layers of an architecture give.

    Attributes:
        outputs: Of its last layer, one of each batch.
        statistics: Buffers of its batch norms, in their order, where these were recalibrated.
    """

    outputs: list[Tensor]
    statistics: list[dict[str, Tensor]] = field(default_factory=list)


class Prefixes:
    """Remembers beginnings of the architectures of one supernet, on the same batches of images.

    Args:
        limit_mb: Of all activations together, on their device; what was used last is kept.
    """

    def __init__(self, space: SearchSpace, limit_mb: int) -> None:
        self._space = space
        self._known: Recent[Beginning] = Recent(limit_mb * 2**20)

    @torch.no_grad()
    def recalibrate(
        self, architecture: Architecture, network: Network, batches: SizedBatches
    ) -> None:
        """Do as `evaluators.recalibrate`."""
        parts = network.parts
        done, known = self._longest("calibration", architecture)
        recalibrated = batch_norms(nn.ModuleList(parts[:done]))
        for norm, statistics in zip(recalibrated, known.statistics):
            for name, buffer in norm.named_buffers():
                buffer.copy_(statistics[name])
        kept: dict[int, list[Tensor]] = defaultdict(list)
        with averaging(batch_norms(nn.ModuleList(parts[done:]))):
            network.train()
            for index, (images, _) in enumerate(batches):
                with shared_device(images.device):
                    x = known.outputs[index] if done else images
                    self._run(parts, done, x, kept, len(batches))
        network.eval()
        for number, outputs in kept.items():
            norms = batch_norms(nn.ModuleList(parts[:number]))
            buffers = [{n: b.clone() for n, b in norm.named_buffers()} for norm in norms]
            self._keep("calibration", architecture, number, Beginning(outputs, buffers))

    def read_by_batch(
        self, architecture: Architecture, network: Network, batches: SizedBatches
    ) -> Iterator[Reading]:
        """Do as `evaluators.accuracy.read_by_batch`, for a network recalibrated here."""
        network.eval()
        for index, (images, labels) in enumerate(batches):
            done, known = self._longest(index, architecture)
            kept: dict[int, list[Tensor]] = defaultdict(list)
            with shared_device(images.device), torch.no_grad():
                x = known.outputs[0] if done else images
                logits = self._run(network.parts, done, x, kept, len(batches))
                reading = read_answers(logits, labels)
            for number, outputs in kept.items():
                self._keep(index, architecture, number, Beginning(outputs))
            yield reading

    def _run(
        self,
        parts: Sequence[nn.Module],
        done: int,
        x: Tensor,
        kept: dict[int, list[Tensor]],
        batches: int,
    ) -> Tensor:
        """Apply the parts that follow; put into `kept` what is worth it and would fit."""
        places = range(1 + EVERY, len(parts) - 1, EVERY)  # numbers of parts: the stem is the first
        for number, part in enumerate(parts[done:], done + 1):
            x = part(x)
            if number in places and x.nbytes * batches * len(places) <= self._known.limit:
                kept[number].append(x)
        return x

    def _longest(self, batches: Hashable, architecture: Architecture) -> tuple[int, Beginning]:
        """The most parts whose outputs are known, and these; none is 0."""
        for layers in range(len(architecture), 0, -1):
            known = self._known.get((batches, self._beginning(architecture, layers)))
            if known is not None:
                return 1 + layers, known
        return 0, Beginning([])

    def _keep(
        self, batches: Hashable, architecture: Architecture, number: int, beginning: Beginning
    ) -> None:
        size = sum(output.nbytes for output in beginning.outputs)
        self._known.put((batches, self._beginning(architecture, number - 1)), beginning, size)

    def _beginning(self, architecture: Architecture, layers: int) -> Hashable:
        """Equal for equal networks: the layers that are not left out, and their candidates."""
        return tuple(
            (index, name)
            for index, (layer, name) in enumerate(zip(self._space.layers, architecture[:layers]))
            if not (layer.keeps_shape and self._space.is_skip(name))
        )
