"""Programs that are put together from parts: those of one export, for less work."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from spaces import randomize_norms, small_space
from torch import nn

from evaluators import deployed, onnx_parts
from evaluators.recent import Recent
from evaluators.runtimes import onnxruntime as runtime
from search_space import Architecture
from supernet import Supernet, seed_everything

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def nothing_exported(monkeypatch) -> None:
    monkeypatch.setattr(onnx_parts, "_exported", Recent(2**30))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    seed_everything(0, 0)
    supernet = Supernet(small_space(in_channels=3)).eval()
    randomize_norms(supernet)
    return supernet


@pytest.fixture
def exports(monkeypatch) -> list[int]:
    """How many parts each export was of."""
    counts: list[int] = []
    export = runtime._export

    def counted(model: nn.Module, inputs, *names):
        counts.append(len(inputs))
        return export(model, inputs, *names)

    monkeypatch.setattr(runtime, "_export", counted)
    return counts


def both(supernet: Supernet, architecture: Architecture, batch: int = 1) -> tuple:
    """Programs of the same network, in parts and in one piece."""
    network = deployed(supernet.extract(architecture))
    example = torch.zeros(batch, 3, 8, 8)
    with torch.inference_mode():
        parts = runtime.to_onnx(network, example, any_batch=False)
        whole = runtime._export(network, (example,), ["images"], ["logits"])
    return parts, whole


def run(program, images: np.ndarray, optimized: str) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.optimized_model_filepath = optimized
    session = onnxruntime.InferenceSession(
        program.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"images": images})[0]


def operators(program) -> list[str]:
    return [node.op_type for node in program.graph.node]


@pytest.mark.parametrize(
    ("architecture", "batch"),
    [
        (("conv3", "inv3", "sk", "dyn3"), 1),
        (("ghost3", "dw5", "skdw", "inv3"), 4),
        (("dyn3", "skip", "conv3", "skip"), 1),
    ],
)
def test_it_computes_the_same_as_one_export(supernet, tmp_path, architecture, batch: int) -> None:
    """Bit for bit, with no operator more: where parts meet, one export may change strides."""
    parts, whole = both(supernet, architecture, batch)
    assert Counter(operators(parts)) <= Counter(operators(whole))
    images = np.random.default_rng(0).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    files = [str(tmp_path / name) for name in ("parts.onnx", "whole.onnx")]
    logits = [run(program, images, file) for program, file in zip((parts, whole), files)]
    assert np.array_equal(*logits)
    executed = [Counter(operators(onnx.load(file))) for file in files]  # by ONNX Runtime
    assert executed[0] <= executed[1]
    assert executed[1] - executed[0] in (Counter(), Counter(["Reshape", "Gather"]))


def test_what_was_exported_is_used_again(supernet, exports) -> None:
    network = deployed(supernet.extract(("conv3", "inv3", "sk", "conv3")))
    other = deployed(supernet.extract(("conv3", "inv3", "dw5", "skip")))
    example = torch.zeros(1, 3, 8, 8)
    with torch.inference_mode():
        first = runtime.to_onnx(network, example, any_batch=False)
        again = runtime.to_onnx(deployed(network), example, any_batch=False)
        runtime.to_onnx(other, example, any_batch=False)
        runtime.to_onnx(network, torch.zeros(2, 3, 8, 8), any_batch=False)
    assert exports == [6, 1, 6]  # stem, four layers, the rest; one layer; another batch
    assert first == again


@torch.no_grad()
def test_other_weights_are_another_part(supernet, exports) -> None:
    network = deployed(supernet.extract(("conv3",) * 4))
    example = torch.zeros(1, 3, 8, 8)
    runtime.to_onnx(network, example, any_batch=False)
    network.blocks[1].expand[0].weight[0, 0] += 1e-3
    program = runtime.to_onnx(network, example, any_batch=False)
    assert exports == [6, 1]
    assert program == runtime.to_onnx(network, example, any_batch=False)


def test_a_part_that_cannot_be_pickled_is_exported_each_time(supernet, exports) -> None:
    network = deployed(supernet.extract(("conv3",) * 4))
    network.blocks[2].drop_path.note = lambda: None
    for _ in range(2):
        runtime.to_onnx(network, torch.zeros(1, 3, 8, 8), any_batch=False)
    assert exports == [6, 1]


def test_other_networks_are_exported_in_one_piece(supernet, exports) -> None:
    example = torch.zeros(1, 3, 8, 8)
    runtime.to_onnx(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), example, any_batch=False)
    runtime.to_onnx(deployed(supernet.extract(("conv3",) * 4)), example, any_batch=True)
    assert exports == [1, 1]
