"""Every operator against its equation, in float64, and the special cases that each must contain."""

from __future__ import annotations

import math

import pytest
import torch
from operator_oracles import OPERATORS, ORACLES, conv, norm, relu
from timm.layers import SelectiveKernel
from torch import Tensor, nn

from search_space import build_operator, operator_names
from search_space.kernels.expert_conv.mixing import mix_experts, mix_outputs
from search_space.registry import get_operator


def random_operator(name: str, ci: int, co: int, stride: int = 1, **options) -> nn.Module:
    torch.manual_seed(1)
    operator = build_operator(name, ci, co, stride, **options).double().eval()
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in operator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return operator


def random_images(channels: int, height: int = 7, width: int = 6, batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, dtype=torch.float64)


def test_every_operator_has_an_oracle() -> None:
    ours = "search_space.operators."
    built_in = {name for name in operator_names() if get_operator(name).__module__.startswith(ours)}
    assert built_in == {*OPERATORS, "skip"}


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATORS)
def test_equation(name: str, stride: int) -> None:
    operator, x = random_operator(name, 8, 12, stride), random_images(8)
    torch.testing.assert_close(operator(x), ORACLES[name](operator, x, stride))


@torch.no_grad()
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 2, 1), (2, 3, 2), (2, 1, 4)])
def test_static_kernels_with_options(stride: int, dilation: int, groups: int) -> None:
    options = {"kernel_size": 5, "dilation": dilation, "groups": groups}
    x = random_images(8)
    for name in ("convolution", "do_conv"):
        operator = random_operator(name, 8, 12, stride, **options)
        kernel = operator.weight if name == "convolution" else operator.kernel()
        assert kernel.shape == (12, 8 // groups, 5, 5)
        expected = conv(x, kernel, stride, dilation, groups)
        torch.testing.assert_close(operator(x), expected)


@torch.no_grad()
def test_grouped_do_conv_pairs_each_transform_with_its_own_channel() -> None:
    operator, x = random_operator("do_conv", 8, 12, groups=4), random_images(8)
    kernel = torch.zeros(12, 8, 9, dtype=torch.float64)
    for o in range(12):
        for i in range(2):
            channel = o // 3 * 2 + i
            transform = torch.eye(9, dtype=torch.float64) + operator.over[channel]
            kernel[o, channel] = transform @ operator.conv.weight.flatten(2)[o, i]
    torch.testing.assert_close(operator(x), conv(x, kernel.unflatten(2, (3, 3))))


@torch.no_grad()
def test_separable_kernels_are_products() -> None:
    x = random_images(8)
    operator = random_operator("depthwise_separable", 8, 12, 2, activation=False)
    kernel = operator.conv_pw.weight * operator.conv_dw.weight[:, 0]
    torch.testing.assert_close(operator(x), conv(x, kernel, 2))


@torch.no_grad()
def test_transposed_is_the_adjoint_of_convolution() -> None:
    operator = random_operator("transposed", 8, 12)
    x, y = random_images(8), random_images(12)
    product = (conv(y, operator.conv.weight) * x).sum()
    torch.testing.assert_close((operator(x) * y).sum(), product)


@torch.no_grad()
@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_starts_as_the_plain_convolution_and_shifts(modulated: bool) -> None:
    operator, x = random_operator("deformable", 8, 12, modulated=modulated), random_images(8)
    operator.init_weights()
    torch.testing.assert_close(operator(x), conv(x, operator.conv.weight))
    operator.offset.bias[:18] = torch.tensor([1.0, -2.0]).repeat(9)  # a row down, two columns left
    shifted = torch.zeros_like(x)
    shifted[:, :, :-1, 2:] = x[:, :, 1:, :-2]
    # a row and a column at the border: there the shift meets the padding
    expected = conv(shifted, operator.conv.weight)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(operator(x)[:, :, 1:-1, 1:-1], expected)


@torch.no_grad()
def test_octave_of_a_constant_is_the_convolution() -> None:
    operator = random_operator("octave", 8, 12)
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64).expand(2, 8, 10, 10)
    expected = conv(x, operator.conv.weight)
    torch.testing.assert_close(operator(x)[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2])
    plain, x = random_operator("octave", 8, 12, 2, alpha=0), random_images(8)
    torch.testing.assert_close(plain(x), conv(x, plain.conv.weight, 2))


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 4])
def test_both_ways_of_mixing_experts(groups: int) -> None:
    operator = random_operator("condconv", 8, 12, 2, experts=3, groups=groups)
    weights = torch.rand(5, 3, dtype=torch.float64)
    for size in (1, 32):  # outputs are mixed on the small map, kernels on the large one
        x = random_images(8, size, size, batch=5)
        by_outputs = mix_outputs(operator.experts, x, weights)
        by_kernels = operator.experts(x, weights)
        torch.testing.assert_close(by_outputs, by_kernels)
        chosen = mix_experts(operator.experts, x, weights)
        cheaper = by_outputs if 9 * 8 / groups > 4 * 3 * math.ceil(size / 2) ** 2 else by_kernels
        assert torch.equal(chosen, cheaper)
        one = torch.eye(3, dtype=torch.float64)[[1] * 5]
        kernel = operator.experts.weight[1].reshape(12, -1, 3, 3)
        expected = conv(x, kernel, 2, groups=groups)
        torch.testing.assert_close(mix_experts(operator.experts, x, one), expected)


@torch.no_grad()
def test_temperature_makes_attention_flat_and_is_saved() -> None:
    operator, x = random_operator("dynamic", 8, 12), random_images(8)
    operator.anneal(1.0)
    assert "temperature" in operator.state_dict() and operator.temperature == 1
    sharp = operator(x)
    operator.temperature.fill_(1e12)
    kernel = operator.experts.weight.mean(0).reshape(12, 8, 3, 3)
    torch.testing.assert_close(operator(x), conv(x, kernel))
    assert (operator(x) - sharp).abs().max() > 1e-3


@torch.no_grad()
def test_self_calibration_with_an_open_gate_is_two_convolutions() -> None:
    operator, x = random_operator("self_calibrated", 8, 12), random_images(8)
    operator.wide[1].weight.zero_()
    operator.wide[1].bias.fill_(60.0)
    near = norm(conv(x[:, :4], operator.near[0].weight), operator.near[1])
    expected = conv(near, operator.calibrated.weight)
    torch.testing.assert_close(operator(x)[:, :6], expected)


@torch.no_grad()
def test_split_attention_of_equal_logits_is_the_mean_of_the_splits() -> None:
    operator, x = random_operator("split_attention", 8, 12), random_images(8)
    operator.fc2.weight.zero_()
    operator.fc2.bias.zero_()
    maps = relu(norm(conv(x, operator.conv.weight, groups=2), operator.bn0)).unflatten(1, (2, -1))
    torch.testing.assert_close(operator(x), maps.mean(1))


@torch.no_grad()
def test_selective_kernel_is_timms_unsplit_one() -> None:
    operator, x = random_operator("selective_kernel", 64, 64), random_images(64)
    theirs = SelectiveKernel(64, 64, groups=32, split_input=False, rd_channels=32).double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), operator.state_dict().values())))
    torch.testing.assert_close(operator(x), theirs(x))


@torch.no_grad()
def test_involution_with_a_constant_generator_is_a_grouped_depthwise_convolution() -> None:
    operator, x = random_operator("involution", 32, 32, 2), random_images(32)
    operator.span.weight.zero_()
    kernel = operator.span.bias.reshape(2, 1, 7, 7).repeat_interleave(16, 0)
    torch.testing.assert_close(operator(x), conv(x, kernel, 2, groups=32))


def test_skip_is_the_identity() -> None:
    x = random_images(8)
    assert build_operator("skip", 8, 8, 1)(x) is x
