"""The runtimes, and one of a user's own."""

from __future__ import annotations

import tempfile

import pytest
import torch
from torch import nn

from configs.errors import UserError
from evaluators import LatencySettings, measure_latency, register_runtime
from evaluators.runtimes import deployed, prepare
from search_space import SearchSpace, build_network


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


@pytest.mark.parametrize("runtime", ["eager", "compile", "onnxruntime", "openvino"])
def test_every_runtime_gives_a_number(runtime: str) -> None:
    if runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime)
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
