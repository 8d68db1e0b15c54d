"""Parameters, MACs and memory against formulas that are written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from spaces import small_space
from torch import nn

from evaluators import count_macs, count_params, peak_memory_mb
from evaluators.memory_table import MemoryTable
from evaluators.runtime import deployed
from search_space import SearchSpace, build_network, build_operator

SIZES = [(48, 48, 14, 1), (64, 64, 15, 2)]  # channels in and out, H = W, stride


def output_pixels(size: int, stride: int) -> int:
    return math.ceil(size / stride) ** 2


def check(operator: nn.Module, channels: int, size: int, params: float, macs: float) -> None:
    assert count_params(operator) == params
    assert count_macs(operator, (7, channels, size, size)) == macs  # of one image, whatever batch


@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), [*SIZES, (24, 40, 7, 2)])
def test_convolution(c_in: int, c_out: int, size: int, stride: int) -> None:
    operator = build_operator("convolution", c_in, c_out, stride, kernel_size=5, groups=8)
    weights = 25 * c_in * c_out // 8
    check(operator, c_in, size, weights, weights * output_pixels(size, stride))


@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), SIZES)
def test_depthwise(c_in: int, c_out: int, size: int, stride: int) -> None:
    operator = build_operator("depthwise", c_in, c_out, stride, kernel_size=7)
    check(operator, c_in, size, 49 * c_in, 49 * c_in * output_pixels(size, stride))


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), SIZES)
def test_involution(c_in: int, c_out: int, size: int, stride: int, kernel_size: int) -> None:
    operator = build_operator("involution", c_in, c_out, stride, kernel_size=kernel_size)
    taps, groups, reduction = kernel_size**2, c_in // 16, 4
    generator = (c_in**2 + c_in * groups * taps) / reduction
    pixels = output_pixels(size, stride)
    aggregation = taps * c_in
    check(
        operator,
        c_in,
        size,
        params=generator + groups * taps + 2 * c_in / reduction,
        macs=(generator + aggregation) * pixels,
    )


@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), [(64, 64, 14, 1), (64, 64, 15, 2)])
def test_selective_kernel(c_in: int, c_out: int, size: int, stride: int) -> None:
    operator = build_operator("selective_kernel", c_in, c_out, stride)
    branches, groups, width = 2, 32, max(c_out // 16, 32)
    weights = branches * 9 * c_in * c_out // groups
    attention = c_out * width * (1 + branches)
    check(
        operator,
        c_in,
        size,
        params=weights + attention + 2 * branches * c_out + 2 * width,
        macs=weights * output_pixels(size, stride) + attention,
    )


@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), SIZES)
def test_dynamic(c_in: int, c_out: int, size: int, stride: int) -> None:
    operator = build_operator("dynamic", c_in, c_out, stride, kernel_size=3, experts=4)
    experts, hidden = 4, c_in // 4
    kernel = 9 * c_in * c_out
    router = c_in * hidden + hidden * experts
    check(
        operator,
        c_in,
        size,
        params=experts * kernel + router + hidden + experts,
        macs=kernel * output_pixels(size, stride) + experts * kernel + router,
    )


@pytest.mark.parametrize(("c_in", "c_out", "size", "stride"), [*SIZES, (32, 33, 9, 1)])
def test_ghost(c_in: int, c_out: int, size: int, stride: int) -> None:
    operator = build_operator("ghost", c_in, c_out, stride, kernel_size=3)
    primary = -(-c_out // 2)
    weights = 9 * c_in * primary + 9 * primary
    macs = weights * output_pixels(size, stride)
    check(operator, c_in, size, weights + 2 * primary * 2, macs)


def test_published_figures_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    assert count_params(model) == 25_557_032
    assert round(count_macs(model, (1, 3, 224, 224)) / 1e9, 3) == 4.089


def test_deformable_convolution() -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torchvision.ops.DeformConv2d(8, 16, 3, padding=1, groups=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x, x.new_zeros(x.shape[0], 18, *x.shape[2:]))

    pixels = 7 * 7
    expected = 9 * 8 * 16 // 2 * pixels + 4 * 9 * 8 * pixels
    assert count_macs(Deformable(), (1, 8, 7, 7)) == expected


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model.train()
    model[2].eval()
    statistics = model[1].running_mean.clone()
    count_macs(model, (2, 3, 8, 8))
    peak_memory_mb(model, (2, 3, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.equal(model[1].running_mean, statistics)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(5, 5)
    assert count_params(nn.Sequential(layer, layer)) == 30


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_memory_of_a_chain(device: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 2, 3, padding=1, bias=False),
    ).to(device)
    batch, pixels = 4, 20 * 20
    weights = 9 * (3 * 8 + 8 * 16 + 16 * 2)
    # At the second convolution: the images, its input and its output; the third needs less.
    floats = weights + batch * pixels * (3 + 8 + 16)
    assert peak_memory_mb(model, (batch, 3, 20, 20)) == pytest.approx(4 * floats / 1e6)


@pytest.mark.parametrize("preset", ["quickstart", "all_operators", "bottleneck", "ghost_residual"])
def test_memory_is_calculated_exactly_layer_by_layer(preset: str) -> None:
    blocks = {"bottleneck", "ghost_residual"}
    space = small_space(preset) if preset in blocks else SearchSpace.from_yaml(preset)
    shape = (2, space.in_channels, space.input_size, space.input_size)
    calculate, rng = MemoryTable(space, batch=2), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(8)]
    for skipped in range(len(space.layers)):  # maps that are one and the same count once
        keep = tuple(layer.candidates[0] for layer in space.layers)
        names = ("skip",) * skipped + keep[skipped:]
        drawn.append(space.canonical(names))
    for architecture in drawn:
        with torch.device("meta"):
            network = deployed(build_network(space, architecture))
        assert calculate(architecture) == pytest.approx(peak_memory_mb(network, shape), abs=1e-9)
