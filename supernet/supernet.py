"""One network that holds every candidate of every layer. The architecture is an argument."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from search_space.blocks import Block, build_block
from search_space.layers import initialize
from search_space.network import Network, build_head, build_network, build_stem, head_features
from search_space.space import Architecture, SearchSpace
from supernet.paths import TrainingPath


class SupernetLayer(nn.Module):
    """A block's shared layers and one operator per candidate, each with its batch norm.

    The block is as wide as its widest candidate. A narrower one takes the first channels of each
    shared weight and statistic, as many as a block of its width has.
    """

    def __init__(self, space: SearchSpace, index: int) -> None:
        super().__init__()
        layer = space.layers[index]
        build = partial(
            build_block, space.config.stages[layer.stage], layer.in_channels, layer.stride
        )
        shares = {n: space.width_of(n) for n in layer.candidates if not space.is_skip(n)}
        self.block = build(max(shares.values(), default=1.0))
        skippable = len(shares) < len(layer.candidates) and not layer.keeps_shape
        self.skipped = self.block.skipped() if skippable else nn.Identity()
        self.candidates = nn.ModuleDict()
        self._narrow: dict[str, Around] = {}  # without weights of their own
        for name, share in shares.items():
            block = build(share)
            self.candidates[name] = block.candidate(partial(space.build_candidate, name))
            if block.width < self.block.width:
                self._narrow[name] = Around(block.to("meta"))

    def forward(self, x: Tensor, candidate: str) -> Tensor:
        if candidate not in self.candidates:  # skip
            return self.skipped(x)
        operator = self.candidates[candidate]
        if candidate not in self._narrow:
            return self.block.around(x, operator)
        narrow = self._narrow[candidate].train(self.training)
        shared = dict(self.block.named_parameters()) | dict(self.block.named_buffers())
        weights = first_channels(shared, narrow.block.state_dict())
        prefixed = {f"block.{key}": value for key, value in weights.items()}
        return functional_call(narrow, prefixed, (x, operator))


class Around(nn.Module):
    """A block as a function of images and operator, for `torch.func.functional_call`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, operator: nn.Module) -> Tensor:
        return self.block.around(x, operator)


def first_channels(wide: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return views of the first channels of each tensor, in the shapes of those of equal name."""
    return {key: wide[key][tuple(map(slice, small.shape))] for key, small in like.items()}


class Supernet(nn.Module):
    """Weight-sharing network: ``supernet(images, architecture)`` runs one path.

    Convolutions around a searched operator are shared by its candidates, sliced where one of them
    is narrower (https://arxiv.org/abs/1908.09791); an operator and the batch norm behind it belong
    to one candidate (SPOS, https://arxiv.org/abs/1904.00420).

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
            layer = self._layer(index)
            if candidate is None:
                block.load_state_dict(layer.skipped.state_dict())
                continue
            own = candidate.state_dict(prefix="operator.")
            like = {key: value for key, value in block.state_dict().items() if key not in own}
            block.load_state_dict({**first_channels(layer.block.state_dict(), like), **own})
        network.head.load_state_dict(self.head.state_dict())
        network.fc.load_state_dict(self.fc.state_dict())
        return network.train(self.training)
