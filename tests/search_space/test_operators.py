"""What every operator promises, whatever it computes; `test_operator_values` checks the values."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_oracles import OPERATORS
from timm.utils import reparameterize_model
from torch import nn

from configs.errors import UserError
from evaluators import count_macs, count_params
from experiments.programs import export_onnx
from search_space import build_operator, operator_options
from search_space.layers import initialize

CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in OPERATORS},
    "asymmetric, dilated": {"kernel_size": 5, "dilation": 2, "groups": 4},
    "convolution, dilated": {"dilation": 2, "groups": 4},
    "deformable, v1": {"modulated": False},
    "depthwise_separable, Xception": {"activation": False},
    "diverse_branch, depthwise": {"groups": 999},
    "do_conv, grouped": {"groups": 4},
    "dynamic, depthwise": {"depthwise": True},
    "octave, plain": {"alpha": 0},
    "selective_kernel, depthwise": {"depthwise": True},
}
DEPLOYED = [case for case in CASES if case.startswith(("asymmetric", "diverse", "do_conv"))]
all_cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(case: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The operator with random weights and random batch-norm statistics."""
    operator = build_operator(case.split(",")[0], in_channels, out_channels, stride, **CASES[case])
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=0.2)
    for module in operator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return operator


@all_cases
@pytest.mark.parametrize("stride", [1, 2])
def test_shapes_and_gradients_at_batch_1(case: str, stride: int) -> None:
    for in_channels, out_channels in [(8, 8), (16, 24), (24, 16), (40, 40), (9, 15), (5, 3)]:
        operator = build(case, in_channels, out_channels, stride).train()
        for height, width in [(1, 1), (5, 7), (7, 1), (8, 14)]:
            images = torch.randn(1, in_channels, height, width, requires_grad=True)
            out = operator(images)
            expected = (1, out_channels, math.ceil(height / stride), math.ceil(width / stride))
            assert out.shape == expected
        out.square().sum().backward()
        assert images.grad is not None and images.grad.isfinite().all()
        assert all(parameter.grad is not None for parameter in operator.parameters())


@all_cases
def test_memory_formats_and_batches_agree(case: str) -> None:
    for stride, (height, width) in [(1, (5, 6)), (2, (7, 9))]:
        operator = build(case, 16, 24, stride).double().eval()
        images = torch.randn(5, 16, height, width, dtype=torch.float64)
        expected = operator(images)
        last = operator(images.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected)
        torch.testing.assert_close(operator(images.flip(0)).flip(0), expected)
        torch.testing.assert_close(operator(images[1:2]), expected[1:2])


@all_cases
def test_an_empty_batch(case: str) -> None:
    out = build(case, 16, 24, 2).eval()(torch.empty(0, 16, 7, 9))
    assert out.shape == (0, 24, 4, 5)


@all_cases
def test_bfloat16(case: str) -> None:
    operator = build(case, 16, 24, 2).eval()
    images = torch.randn(2, 16, 7, 9)
    expected = operator(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert operator.train()(images).isfinite().all()
        mixed = operator.eval()(images)
    if not case.startswith("graph_knn"):  # another neighbour is a jump
        error = (mixed.float() - operator(images)).abs().max()
        assert error < 0.05 * expected.abs().max()
    half = operator.bfloat16()(images.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


@all_cases
def test_state_is_in_parameters_and_buffers(case: str) -> None:
    operator = build(case, 12, 20, 2)
    images = torch.randn(3, 12, 7, 8)
    for progress in (0.2, 0.9):
        if hasattr(operator, "anneal"):
            operator.anneal(progress)
        operator.train()(images)
    twin = build(case, 12, 20, 2)
    twin.load_state_dict(operator.state_dict())
    assert torch.equal(twin.eval()(images), operator.eval()(images))


@all_cases
def test_traced_as_one_graph(case: str) -> None:
    operator = build(case, 8, 12, 2).eval()
    images = torch.randn(3, 8, 5, 7)
    expected = operator(images)
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)


@all_cases
def test_initialisation_keeps_what_starts_at_zero(case: str) -> None:
    operator = build_operator(case.split(",")[0], 16, 16, 1, **CASES[case])
    initialize(operator)
    out = operator(torch.randn(8, 16, 9, 9))
    assert 0.05 < out.std() < 20
    if case.startswith("deformable"):
        assert not operator.offset.weight.any() and not operator.offset.bias.any()


@pytest.mark.parametrize("case", OPERATORS)
def test_onnx(case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    operator = build(case, 8, 12, 2)
    network = nn.Sequential(operator, nn.Flatten())
    for batch in (1, 4, None):  # None: any
        exported = export_onnx(network, (8, 5, 7), tmp_path / "o.onnx", batch)
        assert exported.path is not None, exported.message


@pytest.mark.parametrize("case", DEPLOYED)
@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 12), 2), ((9, 15), 2)])
def test_reparameterized_equals_trained(case: str, channels: tuple[int, int], stride: int) -> None:
    operator = nn.Sequential(build(case, *channels, stride)).double().eval()
    images = torch.randn(2, channels[0], 7, 9, dtype=torch.float64)
    expected = operator(images)
    trained = sum(parameter.numel() for parameter in operator.parameters())
    deployed = reparameterize_model(operator)
    torch.testing.assert_close(deployed(images), expected, rtol=1e-11, atol=1e-11)
    (convolution,) = (m for m in deployed.modules() if isinstance(m, nn.Conv2d))
    bias = 0 if case.startswith("do_conv") else channels[1]
    assert count_params(deployed) == convolution.weight.numel() + bias < trained
    pixels = math.ceil(7 / stride) * math.ceil(9 / stride)
    assert count_macs(deployed, images.shape) == convolution.weight.numel() * pixels
    reparameterize_model(deployed, inplace=True)  # once more changes nothing
    torch.testing.assert_close(deployed(images), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(operator(images), expected)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("kernel_size", [5, 7]), ("dilation", [3]), ("groups", [3, 999]), ("alpha", [0.5, 0.99]),
        ("radix", [1, 4]), ("reduction", [1, 100]), ("parts", [1, 999]), ("neighbours", [1, 1000]),
        ("experts", [1, 2]), ("ratio", [3]), ("min_channels", [1]), ("group_channels", [1, 1000]),
    ],
)  # fmt: skip
def test_unusual_options_keep_the_shape(option: str, values: list[float]) -> None:
    takers = [name for name in OPERATORS if option in operator_options(name)]
    assert takers
    for name in takers:
        for value in values:
            for ci, co, stride in [(8, 8, 1), (12, 9, 2)]:
                operator = build_operator(name, ci, co, stride, **{option: value})
                out = operator(torch.randn(2, ci, 5, 7))
                assert out.shape == (2, co, math.ceil(5 / stride), math.ceil(7 / stride))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convolution", {"kernel_size": 4}, "kernel_size: 4 is not possible; an odd number"),
        ("split_attention", {"kernel_size": 2}, "kernel_size: 2 is not possible; an odd number"),
        (
            "heterogeneous",
            {"kernel_size": 1},
            "kernel_size: 1 is not possible; an odd number from 3",
        ),
        ("octave", {"alpha": 1}, "alpha: 1 is not possible"),
    ],
)
def test_impossible_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_operator(name, 8, 8, 1, **options)


def formulas(ci: int, co: int, size: int, stride: int) -> dict[str, tuple[float, float]]:
    """Parameters and MACs of every case, written out."""
    side = math.ceil(size / stride)
    before, after = size**2, side**2
    common = [d for d in range(1, 33) if ci % d == co % d == 0]
    project = 0 if ci == co else ci * co
    dense = 9 * ci * co
    hidden = ci // 4  # of a router or an involution
    router = ci * hidden + 4 * hidden
    groups = ci // max(d for d in range(1, 17) if ci % d == 0)
    generator = ci * max(hidden, 8) + max(hidden, 8) * groups * 49
    ghost = 9 * (ci + 1) * math.ceil(co / 2)
    attention = max(co // 16, 32)
    split = max(ci // 2, 32)
    c3, c5, r3, r5 = co // 2, co // 8, max(3 * co // 8, 8), max(co // 16, 8)
    branches = ci * (co - c3 - c5) + 9 * r3 * c3 + 25 * r5 * c5
    high_in, high_out = ci - ci // 4, co - co // 4
    half, half_out = ci // 2, co // 2
    middle = min(ci, co)
    deep = math.gcd(ci, co)
    inner = 2 * ci if deep == ci else ci
    padded = (size + 2) ** 2
    return {
        "asymmetric": ((9 + 6) * ci * co + 6 * co, (9 + 6) * ci * co * after),
        "asymmetric, dilated": (35 * ci * co / 4 + 6 * co, 35 * ci * co / 4 * after),
        "condconv": (8 * dense + 8 * ci + 8, dense * (after + 8) + 8 * ci),
        "convolution": (dense, dense * after),
        "convolution, dilated": (dense / 4, dense / 4 * after),
        "deformable": (
            dense + 27 * (9 * ci + 1),
            (dense + 27 * 9 * ci + 4 * 9 * ci) * after,
        ),
        "deformable, v1": (
            dense + 18 * (9 * ci + 1),
            (dense + 18 * 9 * ci + 4 * 9 * ci) * after,
        ),
        "depthwise": (9 * ci + project + (2 * ci if project else 0), (9 * ci + project) * after),
        "depthwise_separable": (ci * (9 + co) + 2 * ci, ci * (9 + co) * after),
        "depthwise_separable, Xception": (ci * (9 + co), ci * (9 + co) * after),
        "diverse_branch": (
            2 * dense + 2 * ci * co + ci * ci + 10 * co + 2 * ci,
            (2 * dense + ci * co) * after + ci * (ci + co) * padded,
        ),
        "diverse_branch, depthwise": (
            (9 * co * (ci + inner) + 2 * ci * co + ci * inner) / deep + 10 * co + 2 * inner,
            (9 * co * (ci + inner) + ci * co) / deep * after + ci * (inner + co) / deep * padded,
        ),
        "do_conv": (dense + 81 * ci, dense * (after + 9)),
        "do_conv, grouped": (dense / 4 + 81 * ci, dense / 4 * (after + 9)),
        "dynamic": (4 * dense + router + hidden + 4, dense * (after + 4) + router),
        "dynamic, depthwise": (
            4 * 9 * ci + router + hidden + 4 + project,
            9 * ci * (after + 4) + router + project * after,
        ),
        "ghost": (ghost + 4 * math.ceil(co / 2), ghost * after),
        "graph": (ci * co, ci * co * after),
        "graph_knn": (2 * ci * co, 2 * ci * co * after + ci * after**2),
        "heterogeneous": (dense / 4 + ci * co * 3 / 4, ci * co * (9 / 4 + 1) * after),
        "inception": (
            branches + ci * (r3 + r5) + 2 * (r3 + r5),
            branches * after + ci * (r3 + r5) * before,
        ),
        "inverted_residual": (
            6 * ci * (ci + 9 + co) + 4 * 6 * ci + 2 * co,
            6 * ci * (ci * before + (9 + co) * after),
        ),
        "involution": (
            generator + groups * 49 + 2 * max(hidden, 8) + project,
            (generator + 49 * ci + project) * after,
        ),
        "octave": (
            dense,
            9 * high_in * high_out * after
            + 9 * (ci * co - high_in * high_out) * math.ceil(side / 2) ** 2,
        ),
        "octave, plain": (dense, dense * after),
        "selective_kernel": (
            2 * dense / max(common) + 4 * co + 3 * co * attention + 2 * attention,
            2 * dense / max(common) * after + 3 * co * attention,
        ),
        "selective_kernel, depthwise": (
            34 * co + 4 * co + 3 * co * attention + 2 * attention
            + project + (2 * co if project else 0),
            34 * co * after + 3 * co * attention + project * before,
        ),
        "self_calibrated": (
            9 * 2 * half * (half + half_out) + 4 * half,
            9 * half**2 * (before + math.ceil(size / 4) ** 2) + 9 * 2 * half * half_out * after,
        ),
        "spatially_separable": (
            3 * middle * (ci + co),
            3 * middle * (ci * side * size + co * after),
        ),
        "split_attention": (
            dense + 4 * co + co * split + 3 * split + 2 * split * co + 2 * co,
            dense * after + 3 * co * split,
        ),
        "transposed": (dense, dense * after),
    }  # fmt: skip


@all_cases
def test_params_and_macs(case: str) -> None:
    for ci, co, size, stride in [(64, 64, 14, 1), (96, 48, 15, 2), (24, 40, 7, 2)]:
        with torch.device("meta"):
            operator = build_operator(case.split(",")[0], ci, co, stride, **CASES[case])
        params, macs = formulas(ci, co, size, stride)[case]
        assert count_params(operator) == params
        assert count_macs(operator, (2, ci, size, size)) == macs
