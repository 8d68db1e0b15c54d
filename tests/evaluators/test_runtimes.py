"""The runtimes, and one of a user's own."""

from __future__ import annotations

import functools
import tempfile

import numpy as np
import pytest
import torch
from runtimes import require
from sklearn.datasets import load_sample_image
from torch import nn

from configs.errors import UserError
from evaluators import LatencySettings, measure_latency, register_runtime
from evaluators.runtime import as_array
from evaluators.runtimes import (
    RUNTIMES,
    deployed,
    onnxruntime_operators,
    openvino,
    prepare,
)
from evaluators.runtimes.onnxruntime import to_onnx
from evaluators.runtimes.openvino import openvino_extension
from search_space import SearchSpace, build_network, build_operator
from search_space.kernels.involution import involution


@pytest.fixture(autouse=True)
def own_host_folder(tmp_path, monkeypatch) -> None:
    """The tests have their own locks and their own reference time: this is no quiet machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def network(depth: int, width: int = 32) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def busy(runtime: str) -> LatencySettings:
    return LatencySettings(runtime=runtime, max_spread=10.0)  # the tests may share the machine


EXTENDED = ("openvino", "onnxruntime_operators")  # have our operators


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_gives_a_number(runtime: str) -> None:
    require(runtime)
    result = measure_latency(network(1, width=8), (3, 8, 8), busy(runtime))
    assert 0 < result.median_ms < 100
    assert result.fingerprint["runtime"] == runtime


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_computes_what_the_network_does(batch: int) -> None:
    pytest.importorskip("openvino")
    space = SearchSpace.from_yaml("quickstart")
    network = build_network(space, ("conv3", "inv5", "dw5", "skip")).eval()
    images = torch.randn(batch, 1, 12, 12)
    (logits,) = prepare(network, images, LatencySettings(runtime="openvino", batch=batch))()
    with torch.inference_mode():
        expected = network(images)
    assert torch.allclose(torch.from_numpy(logits), expected, atol=1e-4)


@torch.inference_mode()  # as a search measures
def test_a_package_computes_what_the_network_does() -> None:
    space = SearchSpace.from_yaml("quickstart")
    network = build_network(space, ("conv3", "inv5", "dw5", "skip")).eval()
    images = torch.randn(2, 1, 12, 12)
    logits = as_array(prepare(network, images, LatencySettings(runtime="pt2", batch=2))())
    assert np.allclose(logits, network(images).numpy(), atol=1e-4)


EXPERTS = {  # operators with each image's own kernels: options, and whether they are one node
    "dynamic": ({}, True),
    "condconv": ({"kernel_size": 5, "experts": 3}, True),
    "dynamic, depthwise": ({"depthwise": True}, False),
}


def photograph(batch: int, size: int) -> torch.Tensor:
    """(B, 3, size, size) of a real photograph, from 0 to 1."""
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1) / 255
    parts = [pixels[:, 100 : 100 + size, 150 + size * i :][..., :size] for i in range(batch)]
    return torch.stack(parts)


@pytest.mark.parametrize("runtime", EXTENDED)
@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize(("batch", "threads", "stride"), [(1, 1, 1), (3, 2, 2)])
def test_experts_are_a_node_with_the_same_values(
    name: str, batch: int, threads: int, stride: int, runtime: str
) -> None:
    require(runtime)
    options, own = EXPERTS[name]
    torch.manual_seed(0)
    layer = build_operator(name.partition(",")[0], 40, 40, stride, **options)
    network = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), layer).eval()
    images = photograph(batch, 33)
    settings = LatencySettings(runtime=runtime, batch=batch, threads=threads)
    graph = to_onnx(network, images, any_batch=False, own_nodes=True).graph
    assert any(node.op_type == "ExpertConvolution" for node in graph.node) == own
    program = prepare(network, images, settings)
    first, values = as_array(program()), as_array(program())  # constant experts are packed once
    with torch.inference_mode():
        expected = network(images)
    assert len({str(image) for image in expected.sum((2, 3))}) == batch  # each its own
    assert torch.allclose(torch.from_numpy(values), expected, rtol=0, atol=1e-4)
    assert np.array_equal(first, values)


# (channels, side, batch, threads, stride, options): fewer taps than lanes, taps that fill no
# vector, widths in runs of 8, of 7 and of what is left, groups that are narrower than a block.
SPANS = [
    (16, 9, 1, 1, 1, {"kernel_size": 3}),
    (64, 16, 3, 2, 1, {"kernel_size": 7}),
    (48, 14, 1, 2, 1, {"kernel_size": 5}),
    (40, 19, 2, 1, 2, {"kernel_size": 7, "group_channels": 20}),
    (24, 11, 1, 1, 2, {"kernel_size": 3, "group_channels": 8}),
]


@pytest.mark.parametrize("runtime", EXTENDED)
@pytest.mark.parametrize(("channels", "side", "batch", "threads", "stride", "options"), SPANS)
def test_involution_and_what_makes_its_kernels_are_a_node_with_the_same_values(
    runtime: str, channels: int, side: int, batch: int, threads: int, stride: int, options: dict
) -> None:
    require(runtime)
    torch.manual_seed(0)
    involution = build_operator("involution", channels, channels, stride, **options)
    network = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), involution).eval()
    images = photograph(batch, side + 2)
    settings = LatencySettings(runtime=runtime, batch=batch, threads=threads)
    graph = to_onnx(network, images, any_batch=False, own_nodes=True).graph
    (node,) = [node for node in graph.node if node.op_type == "Involution"]
    assert len(node.input) == 4  # images, features, and the convolution that makes the kernels
    values = as_array(prepare(network, images, settings)())
    with torch.inference_mode():
        expected = network(images)
    assert torch.allclose(torch.from_numpy(values), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("runtime", EXTENDED)
def test_involution_by_given_kernels_is_a_node_too(runtime: str) -> None:
    require(runtime)

    class Given(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return involution(x.repeat(1, 6, 1, 1)[:, :16], x.repeat(1, 3, 1, 1), 3, dilation=2)

    images = photograph(2, 12)
    (values,) = [as_array(prepare(Given(), images, LatencySettings(runtime=runtime, batch=2))())]
    assert torch.allclose(torch.from_numpy(values), Given()(images), rtol=0, atol=1e-4)


def test_what_onnxruntime_needs_for_our_operators_is_said(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ONNXRUNTIME_INCLUDE", raising=False)
    monkeypatch.setattr(onnxruntime_operators, "SYSTEM", (tmp_path,))
    with pytest.raises(UserError, match=r"needs a C.. compiler and onnxruntime_cxx_api"):
        measure_latency(network(1), (3, 8, 8), busy("onnxruntime_operators"))
    monkeypatch.setenv("ONNXRUNTIME_INCLUDE", str(tmp_path))
    with pytest.raises(UserError, match="ONNXRUNTIME_INCLUDE: there is no "):
        measure_latency(network(1), (3, 8, 8), busy("onnxruntime_operators"))


def test_openvino_without_a_compiler_runs_standard_graphs(monkeypatch, caplog) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(openvino, "_library", functools.cache(openvino._library.__wrapped__))
    assert openvino_extension() is None
    assert "our operators run as standard graphs in OpenVINO: no C++ compiler" in caplog.text
    torch.manual_seed(0)
    network = nn.Sequential(
        build_operator("involution", 3, 32, 1), build_operator("dynamic", 32, 32, 1)
    ).eval()
    images = photograph(2, 17)
    with torch.inference_mode():
        expected = network(images)
    (values,) = prepare(network, images, LatencySettings(runtime="openvino", batch=2))()
    assert torch.allclose(torch.from_numpy(values), expected, rtol=0, atol=1e-4)


def test_compiled_code_is_not_given_up_after_many_networks() -> None:
    """torch.compile keeps at most eight versions of one forward function, then runs eagerly."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).sin()

    settings = LatencySettings(runtime="compile", channels_last=False)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (2, 3, 4, 5):
            prepare(Net(width), torch.ones(1, width), settings)()


def test_training_branches_are_fused_on_a_copy() -> None:
    from timm.models.byobnet import MobileOneBlock

    block = nn.Sequential(MobileOneBlock(8, 8, kernel_size=3)).eval()
    fused = deployed(block)
    images = torch.randn(2, 8, 6, 6)
    assert len(list(fused.parameters())) < len(list(block.parameters()))
    assert torch.allclose(fused(images), block(images), atol=1e-5)


def test_unknown_runtime_and_dtype_are_refused() -> None:
    with pytest.raises(UserError, match="runtime 'onnxruntim' does not exist; did you mean 'onnx"):
        measure_latency(network(1), (3, 8, 8), LatencySettings(runtime="onnxruntim"))
    with pytest.raises(UserError, match="dtype: 'int8' is not possible; choose one of float32"):
        LatencySettings(dtype="int8")


def test_a_runtime_of_ones_own_is_one_registration() -> None:
    """A scripted network: timed, and told from others by its fingerprint."""

    @register_runtime("scripted", version=lambda: "script 1", synchronous=False)
    def scripted(model: nn.Module, example: torch.Tensor, settings: LatencySettings):
        program = torch.jit.trace(model, example, check_trace=False)
        return lambda: program(example)

    measured = measure_latency(network(1, width=8), (3, 8, 8), busy("scripted"))
    assert 0 < measured.median_ms < 100
    assert measured.fingerprint["runtime"] == "scripted"
    assert measured.fingerprint["runtime_version"] == "script 1"
