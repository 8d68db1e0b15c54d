"""What is shipped: the program that was timed, with what it expects of images."""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import torch
from runtimes import require
from spaces import random_images, small_space
from torch import nn

from configs.latency import LatencySettings
from evaluators.runtimes import prepare
from experiments.data.preprocessing import Preprocessing
from experiments.programs import (
    as_metadata,
    export_onnx,
    export_programs,
    measure_forms,
    pretrained_cfg,
)
from search_space import build_network

SHAPE = (1, 8, 8)
EXPECTED = pretrained_cfg(Preprocessing(8, 1, (0.3,), (0.25,)), list("0123456789"))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(small_space(), ("dyn3", "skip", "conv3", "dyn3")).eval()


@pytest.mark.parametrize("file", ["model.onnx", "model-dynamic.onnx"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_program_that_is_timed_is_the_program_that_ships(
    network, tmp_path, monkeypatch, file: str, channels_last: bool
) -> None:
    """Dynamic convolution has another form for a number of images that is not known."""
    settings = LatencySettings(batch=2, channels_last=channels_last)
    forms = export_programs(network, SHAPE, tmp_path, settings, {})
    timed = []
    session = onnxruntime.InferenceSession

    def recorded(program: bytes, *arguments, **options):
        timed.append(onnx.load_from_string(program))
        return session(program, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    prepare(network, torch.zeros(2, *SHAPE), forms[file])()
    shipped = onnx.load(tmp_path / file)
    assert [program.graph == shipped.graph for program in timed] == [True]


def test_model_has_the_batch_that_was_searched_for_and_the_other_any(network, tmp_path) -> None:
    export_programs(network, SHAPE, tmp_path, LatencySettings(batch=2), as_metadata(EXPECTED))
    for file, batches in (("model.onnx", [2]), ("model-dynamic.onnx", [1, 2, 5])):
        session = onnxruntime.InferenceSession(tmp_path / file)
        for batch in batches:
            images = random_images(batch)
            (logits,) = session.run(None, {"images": images.numpy()})
            with torch.no_grad():
                torch.testing.assert_close(
                    torch.from_numpy(logits), network(images), rtol=1e-3, atol=1e-4
                )
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["pretrained_cfg"]) == EXPECTED
    (images,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()
    assert images.shape == [2, *SHAPE]


def test_every_form_is_timed_as_it_is_run(network, tmp_path) -> None:
    settings = LatencySettings(batch=2, repeats=6, max_spread=10, dtype="bfloat16")
    forms = export_programs(network, SHAPE, tmp_path, settings, {})
    forms["searched"] = settings
    times = measure_forms(network, SHAPE, forms, tmp_path, torch.device("cpu"))
    assert times["searched"] is times["eager"]  # once is enough
    marks = {form: (t.fingerprint["runtime"], t.fingerprint["dtype"]) for form, t in times.items()}
    assert marks == {
        "searched": ("eager", "bfloat16"),
        "eager": ("eager", "bfloat16"),
        "model.onnx": ("onnxruntime", "float32"),
        "model-dynamic.onnx": ("onnxruntime_dynamic", "float32"),
    }
    assert {t.fingerprint["batch"] for t in times.values()} == {2}


def test_the_file_is_timed_and_nothing_is_exported_again(network, tmp_path, monkeypatch) -> None:
    settings = LatencySettings(runtime="onnxruntime", batch=2, repeats=6, max_spread=10)
    forms = export_programs(network, SHAPE, tmp_path, settings, {})
    opened = []
    session = onnxruntime.InferenceSession

    def recorded(program: bytes, *arguments, **options):
        opened.append(program)
        return session(program, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    monkeypatch.setattr(torch.onnx, "export", None)
    forms["searched"] = settings
    times = measure_forms(network, SHAPE, forms, tmp_path, torch.device("cpu"))
    assert times["searched"] is times["model.onnx"]
    files = [(tmp_path / file).read_bytes() for file in ("model.onnx", "model-dynamic.onnx")]
    assert opened == files


@pytest.mark.parametrize(
    ("runtime", "file"),
    [("openvino", "model-openvino.onnx"), ("onnxruntime_operators", "model-operators.onnx")],
)
def test_a_runtime_with_our_operators_has_a_file_where_there_is_an_involution(
    network, tmp_path, runtime: str, file: str
) -> None:
    require(runtime)
    settings = LatencySettings(batch=2, repeats=6, max_spread=10)
    export_programs(network, SHAPE, tmp_path, settings, {})
    assert not (tmp_path / file).exists()
    hybrid = build_network(small_space(), ("inv3", "skip", "conv3", "inv3")).eval()
    forms = export_programs(hybrid, SHAPE, tmp_path, settings, as_metadata(EXPECTED))
    program = onnx.load(tmp_path / file)
    nodes = [node for node in program.graph.node if node.op_type == "Involution"]
    assert [node.domain for node in nodes] == ["evolute"] * 2
    times = measure_forms(hybrid, SHAPE, forms, tmp_path, torch.device("cpu"))
    assert times[file].fingerprint["runtime"] == runtime


def test_the_program_has_the_dtype_that_was_searched(network, tmp_path) -> None:
    settings = LatencySettings(
        runtime="onnxruntime", dtype="float16", batch=2, repeats=6, max_spread=10
    )
    forms = export_programs(network, SHAPE, tmp_path, settings, {})
    assert forms["model.onnx"] == settings
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.type for value in session.get_inputs()] == ["tensor(float16)"]
    other = onnxruntime.InferenceSession(tmp_path / "model-dynamic.onnx")
    assert [value.type for value in other.get_inputs()] == ["tensor(float)"]
    times = measure_forms(network, SHAPE, forms, tmp_path, torch.device("cpu"))
    assert times["model.onnx"].fingerprint["dtype"] == "float16"


class Unfit(nn.Module):
    """Another program than the network: the exporter keeps what it sees in the trace."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scale = 2.0 if torch.compiler.is_exporting() else 1.0
        return scale * images.flatten(1)


def test_what_differs_from_pytorch_is_not_written(tmp_path, capsys) -> None:
    export = export_onnx(Unfit(), SHAPE, tmp_path / "model.onnx", 1)
    assert export.path is None and "differ by 1" in export.message
    (tmp_path / "model.onnx").write_text("of an earlier network")
    assert export_programs(Unfit(), SHAPE, tmp_path, LatencySettings(), {}).keys() == {"eager"}
    assert not list(tmp_path.iterdir())
    assert "no model-dynamic.onnx: outputs differ" in capsys.readouterr().out
