"""One network that holds every candidate of every layer. The architecture is an argument."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from search_space.blocks import build_block, operator_width, with_norm
from search_space.layers import initialize
from search_space.network import Network, build_head, build_network, build_stem, head_features
from search_space.space import Architecture, SearchSpace
from supernet.paths import TrainingPath


class SupernetLayer(nn.Module):
    """A block's shared convolutions and one operator per candidate, each with its batch norm."""

    def __init__(self, space: SearchSpace, index: int) -> None:
        super().__init__()
        layer = space.layers[index]
        stage = space.config.stages[layer.stage]
        width = operator_width(stage, layer.in_channels)
        self.block = build_block(stage, layer.in_channels, layer.stride)
        self.candidates = nn.ModuleDict(
            {
                name: with_norm(space.build_candidate(name, width, width, layer.stride), width)
                for name in layer.candidates
                if not space.is_skip(name)
            }
        )

    def forward(self, x: Tensor, candidate: str) -> Tensor:
        if candidate not in self.candidates:  # skip
            return x
        return self.block.around(x, self.candidates[candidate])


class Supernet(nn.Module):
    """Weight-sharing network: ``supernet(images, architecture)`` runs one path.

    Convolutions around a searched operator are shared by its candidates; an operator and the batch
    norm behind it belong to one candidate (SPOS, https://arxiv.org/abs/1904.00420).

    The running statistics of its batch norms mix all paths and say little about any of them:
    `evaluators.accuracy` recalibrates an extracted copy.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.stem = build_stem(space.config.stem, space.in_channels)
        self.layers = nn.ModuleList(SupernetLayer(space, i) for i in range(len(space.layers)))
        self.head = build_head(space.config)
        initialize(self)
        self.fc = nn.Linear(head_features(space.config), space.num_classes)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Turn (B, in_channels, H, W) images into (B, num_classes) logits along one path.

        Raises:
            UserError: The architecture isn't in the space.
        """
        self.space.validate(architecture)
        x = self.stem(images)
        for layer, candidate in zip(self.layers, architecture):
            x = layer(x, candidate)
        return self.fc(F.adaptive_avg_pool2d(self.head(x), 1).flatten(1))

    def candidate(self, layer: int, name: str) -> nn.Module | None:
        """Return a layer's candidate with its batch norm; None where it is a skip."""
        candidates = self._layer(layer).candidates
        return candidates[name] if name in candidates else None  # noqa: SIM401 (no `get`)

    @contextlib.contextmanager
    def learning(self, path: TrainingPath) -> Iterator[None]:
        """Freeze the candidates that do not learn on a path, until the block ends.

        Forward and backward pass both belong into the block. A frozen candidate still passes
        gradients on to the layers before it.
        """
        choices = enumerate(zip(path.architecture, path.learns))
        frozen = [self.candidate(index, name) for index, (name, learns) in choices if not learns]
        modules = [candidate for candidate in frozen if candidate is not None]
        for module in modules:
            module.requires_grad_(False)
        try:
            yield
        finally:
            for module in modules:
                module.requires_grad_(True)

    def _layer(self, index: int) -> SupernetLayer:
        layer = self.layers[index]
        assert isinstance(layer, SupernetLayer)
        return layer

    def extract(self, architecture: Architecture) -> Network:
        """Return the stand-alone network of a path, with a copy of its inherited weights.

        In eval mode ``extract(a)(x)`` equals ``supernet(x, a)``.
        """
        parameter = next(self.parameters())
        network = build_network(self.space, architecture).to(parameter.device, parameter.dtype)
        network.stem.load_state_dict(self.stem.state_dict())
        for index, (name, block) in enumerate(zip(architecture, network.blocks)):
            candidate = self.candidate(index, name)
            if candidate is not None:
                shared = self._layer(index).block.state_dict()
                block.load_state_dict({**shared, **candidate.state_dict(prefix="operator.")})
        network.head.load_state_dict(self.head.state_dict())
        network.fc.load_state_dict(self.fc.state_dict())
        return network.train(self.training)
