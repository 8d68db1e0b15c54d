"""What a network costs on paper: parameters, multiply-accumulates, memory of its tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from evaluators.device_lock import shared_device
from search_space import Architecture, SearchSpace, build_network
from search_space.network import Network


def count_params(model: nn.Module) -> int:
    """Count the learnable numbers; a shared parameter counts once, buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the multiply-accumulates of one image in eval mode, exact for every operator.

    ``input_shape`` is (B, C, H, W); the batch is replaced by one. Counted are convolutions
    (deformable ones included), matrix products and the involution's aggregation; biases, norms,
    activations, pooling and element-wise gates are not, as is usual. The model is not changed; it
    may be on the meta device.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_extra_formulas())
    with _evaluating(model), counter:
        model(_image(model, (1, *input_shape[1:])))
    return counter.get_total_flops() // 2


def macs_by_part(network: Network, input_shape: Sequence[int]) -> list[int]:
    """Return the multiply-accumulates of each of `Network.parts`; see `count_macs`."""
    macs, shape = [], (1, *input_shape[1:])
    with _evaluating(network):
        x = _image(network, shape)
        for part in network.parts:
            counter = FlopCounterMode(display=False, custom_mapping=_extra_formulas())
            with counter:
                x = part(x)
            macs.append(counter.get_total_flops() // 2)
    return macs


def smallest_and_largest(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """Return the architectures of the fewest and of the most MACs, in canonical form.

    Of candidates that cost the same, the one that is named first.
    """
    shape = (1, space.in_channels, space.input_size, space.input_size)
    costs: list[dict[str, int]] = [{} for _ in space.layers]
    for turn in range(max(len(layer.candidates) for layer in space.layers)):
        architecture = tuple(
            layer.candidates[turn % len(layer.candidates)] for layer in space.layers
        )
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = build_network(space, architecture)
        _, *macs, _ = macs_by_part(network, shape)  # without the stem and the classifier
        for layer, name, count in zip(costs, architecture, macs):
            layer[name] = count
    smallest = tuple(min(layer, key=layer.__getitem__) for layer in costs)
    largest = tuple(max(layer, key=layer.__getitem__) for layer in costs)
    return space.canonical(smallest), space.canonical(largest)


def peak_memory_mb(model: nn.Module, input_shape: Sequence[int]) -> float:
    """Return the peak memory of one eval-mode forward pass, in MB (10^6 bytes).

    On CUDA: what PyTorch's allocator held for the network at its highest, weights and scratch space
    included. Elsewhere: the most bytes that parameters, buffers and live tensors occupy at once,
    executed eagerly, which is a property of the network and equal on every such device; what
    libraries take for scratch space is not in it.

    Args:
        input_shape: (B, C, H, W).
    """
    images = _image(model, input_shape)
    if images.device.type == "cuda":
        with _evaluating(model):
            return _allocated_bytes(model, images, [*model.parameters(), *model.buffers()]) / 1e6
    return live_bytes(model, images)[0] / 1e6


def live_bytes(model: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Return the most bytes that are alive at once in an eval-mode forward pass, and its result.

    Parameters, buffers, `x` and all tensors that the model makes count, each storage once.
    """
    meter = _LiveBytes()
    for tensor in (x, *model.parameters(), *model.buffers()):
        meter.watch(tensor)
    with _evaluating(model), meter:
        out = model(x)
    return meter.peak, out


def _allocated_bytes(
    model: nn.Module, images: torch.Tensor, weights: Sequence[torch.Tensor]
) -> int:
    """The allocator's peak during a forward pass, less what belongs to others in this process."""
    model(images)  # libraries allocate their own at the first call
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in (images, *weights)}
    own = sum(storage.nbytes() for storage in storages.values())
    others = torch.cuda.memory_allocated(images.device) - own
    torch.cuda.reset_peak_memory_stats(images.device)
    model(images)
    torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - others


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that exist, and remembers the highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.now = 0
        self.peak = 0

    def watch(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.watch(leaf)
        return result


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, on a device that is held shared; training flags are restored."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with shared_device(_image(model, (0,)).device), torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def _image(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros(*shape, device=parameter.device, dtype=parameter.dtype)


def _extra_formulas() -> dict[Any, Callable[..., int]]:
    """FLOP formulas that PyTorch lacks. The involution's is registered beside its kernel."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        return {}  # torchvision is not loaded, so no network can contain the operator
    return {torch.ops.torchvision.deform_conv2d: _deform_conv2d_flops}


def _deform_conv2d_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *other_arguments: object,
    out_shape: Sequence[int],
) -> int:
    """The convolution, and four products per bilinear sample of each input channel and tap."""
    out_channels, channels_per_group, rows, columns = weight_shape
    convolution = rows * columns * channels_per_group * out_channels
    sampling = 4 * rows * columns * input_shape[1]
    batch, _, height, width = out_shape
    return 2 * batch * height * width * (convolution + sampling)
