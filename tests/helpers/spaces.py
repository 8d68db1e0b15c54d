"""Small spaces, configurations and batches that several tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from configs import Config
from configs.loading import check_config
from search_space import SearchSpace

torch.set_num_threads(1)  # in networks this small, threads only wait for one another

CANDIDATES: dict[str, dict[str, Any]] = {
    "conv3": {"operator": "convolution"},
    "dw5": {"operator": "depthwise", "kernel_size": 5},
    "inv3": {"operator": "involution", "kernel_size": 3},
    "sk": {"operator": "selective_kernel", "min_channels": 4},
    "skdw": {"operator": "selective_kernel", "min_channels": 4, "depthwise": True},
    "dyn3": {"operator": "dynamic"},
    "ghost3": {"operator": "ghost"},
    "skip": {"operator": "skip"},
}  # every family


def space_values(
    block: str = "bottleneck", candidates: tuple[str, ...] = tuple(CANDIDATES), **changes: Any
) -> dict[str, Any]:
    """The `space` section of a configuration: four layers in two stages."""
    return {
        "input_size": 8,
        "in_channels": 1,
        "num_classes": 10,
        "stem": {"width": 16},
        "candidates": {name: dict(CANDIDATES[name]) for name in candidates},
        "stages": [
            {"width": 16, "depth": 2, "stride": 1, "block": block, "expansion": 2},
            {"width": 24, "depth": 2, "stride": 2, "block": block, "expansion": 2},
        ],
        **changes,
    }


def small_space(
    block: str = "bottleneck", candidates: tuple[str, ...] = tuple(CANDIDATES), **changes: Any
) -> SearchSpace:
    """Four layers in two stages; see `space_values`."""
    return SearchSpace.from_dict({"space": space_values(block, candidates, **changes)})


def small_config(**sections: Any) -> Config:
    """A checked configuration with a space of three candidates; sections replace the defaults."""
    values: dict[str, Any] = {
        "name": "small",
        "device": "cpu",
        "space": space_values(candidates=("conv3", "inv3", "skip")),
        "latency": {"max_spread": 10},
    }
    return check_config({**values, **sections})


def random_images(batch: int = 8, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    """(B, C, H, W) normal values; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator)


def random_labels(batch: int = 8, classes: int = 10, seed: int = 1) -> torch.Tensor:
    """(B,) class numbers; the same for the same arguments."""
    return torch.randint(0, classes, (batch,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomize_norms(model: nn.Module, seed: int = 0) -> None:
    """Batch norms whose every value matters: fresh ones are nearly the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.5)
            variance = torch.rand(module.running_var.shape, generator=generator) + 0.5
            module.running_var.copy_(variance)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that aren't the same bit for bit."""
    now = model.state_dict()
    return {key for key, value in before.items() if not torch.equal(value, now[key])}


def proxyless_space() -> SearchSpace:
    """A small ProxylessNAS (https://arxiv.org/abs/1812.00332): six inverted residuals, or none."""
    kernels_and_expansions = [(k, e) for k in (3, 5, 7) for e in (3, 6)]
    candidates: dict[str, dict[str, Any]] = {
        f"mb{e}_{k}": {"operator": "inverted_residual", "kernel_size": k, "expansion": e}
        for k, e in kernels_and_expansions
    }
    stages = [
        {"width": 24, "depth": 3, "stride": 2, "block": "none"},
        {"width": 40, "depth": 3, "stride": 2, "block": "none"},
    ]
    values = {
        "input_size": 16,
        "stem": {"width": 16},
        "head_width": 64,
        "candidates": {**candidates, "skip": {"operator": "skip"}},
        "stages": stages,
    }
    return SearchSpace.from_dict({"space": values})


def rednet_space() -> SearchSpace:
    """A small RedNet (https://arxiv.org/abs/2103.06255), hybrid with convolution, of any depth."""
    candidates = {
        "conv3": {"operator": "convolution"},
        "narrow3": {"operator": "convolution", "width": 0.5},
        "inv7": {"operator": "involution", "kernel_size": 7},
        "skip": {"operator": "skip"},
    }
    stages = [
        {"width": 64, "depth": 2, "stride": 1},
        {"width": 128, "depth": 2, "stride": 2},
    ]
    values = {
        "input_size": 32,
        "stem": {"width": 16, "stride": 4, "kind": "rednet"},
        "candidates": candidates,
        "stages": stages,
    }
    return SearchSpace.from_dict({"space": values})
