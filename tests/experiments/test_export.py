"""`evolute export`: a retrained network in another form is the same network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from readme_blocks import run_blocks
from sklearn.datasets import load_sample_image
from spaces import random_images, randomize_norms, small_space

from configs import UserError
from experiments import cli
from experiments.export import export_folder
from search_space import build_network, save_architecture
from supernet.checkpoint import save_weights

ARCHITECTURE = ("inv3", "skip", "dyn3", "conv3")
LOAD = """
import sys, torch
torch.ops.load_library("evolute_operators.so")
torch.save(torch._inductor.aoti_load_package(sys.argv[1])(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    network = build_network(small_space(), ARCHITECTURE)
    randomize_norms(network)
    return network.eval()


@pytest.fixture
def folder(tmp_path, network) -> Path:
    expected = {
        "input_size": [1, 8, 8], "label_names": list("0123456789"), "mean": [0.4], "std": [0.3]
    }  # fmt: skip
    save_architecture(tmp_path / "architecture.yaml", small_space(), ARCHITECTURE, expected)
    save_weights(tmp_path / "weights.safetensors", network)
    return tmp_path


def photograph_file(folder: Path) -> Path:
    """A photograph of the size of the network's input, with one channel."""
    file = folder / "photograph.png"
    flower = Image.fromarray(load_sample_image("flower.jpg")).crop((150, 100, 450, 400))
    flower.convert("L").resize((8, 8)).save(file)
    return file


def test_onnx_for_a_batch_and_for_any(folder: Path, network) -> None:
    for batch, file, given in ((3, "model.onnx", 3), (0, "model-dynamic.onnx", 5)):
        written = export_folder(folder, "onnx", batch=batch)
        assert written.path == folder / file and written.difference < 1e-4
        session = onnxruntime.InferenceSession(folder / file)
        assert "label_names" in session.get_modelmeta().custom_metadata_map["pretrained_cfg"]
        images = random_images(given)
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, network(images).numpy(), rtol=1e-3, atol=1e-4)


def run_from_cpp(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Build the example as its first lines say, and run it."""
    example = Path(__file__).parents[2] / "examples" / "run_package.cpp"
    (folder / "images.f32").write_bytes(images.numpy().tobytes())
    shutil.copy(example, folder)
    lines = example.read_text().split("\n//\n")[1].replace("//  ", "").splitlines()
    script = "\n".join(lines[:-1]).replace("python", sys.executable)
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True, timeout=300)
    shape = [str(size) for size in images.shape]
    command = ["./run_package", "model.pt2", "images.f32", *shape]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return torch.tensor([[float(x) for x in line.split()] for line in printed.stdout.splitlines()])


def test_a_package_runs_in_another_process(folder: Path, network, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["evolute", "export", str(folder), "--format", "pt2",
                                      "--batch", "2"])  # fmt: skip
    cli.main()
    assert "model.pt2: logits differ by" in " ".join(capsys.readouterr().out.split())
    images, logits = random_images(2), folder / "logits.pt"
    torch.save(images, folder / "images.pt")
    command = [sys.executable, "-P", "-c", LOAD, "model.pt2", "images.pt", logits.name]
    subprocess.run(command, cwd=folder, check=True, timeout=300)  # without our Python code
    found = torch.load(logits, weights_only=True)
    with torch.no_grad():
        expected = network(images)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert torch.allclose(run_from_cpp(folder, images), expected, rtol=1e-3, atol=1e-4)
    card = folder / "README.md"
    assert card.read_text().count("```python") == 3  # Evolute, timm, the package
    (answer,) = run_blocks(folder, photograph_file(folder), "`model.pt2`").values()
    image = Image.open(folder / "photo.jpg").convert("L")
    pixels = (torch.from_numpy(np.array(image)) / 255 - 0.4) / 0.3
    with torch.no_grad():
        assert answer == str(int(network(pixels[None, None]).argmax()))
    metadata = torch._inductor.aoti_load_package(str(folder / "model.pt2")).get_metadata()
    assert json.loads(metadata["pretrained_cfg"])["label_names"][9] == "9"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "onxx"}, "--format: 'onxx' does not exist; did you mean 'onnx'"),
        ({"form": "pt2", "dtype": "float16"}, "pt2 takes float32 or bfloat16, not 'float16'"),
        ({"form": "openvino", "batch": 0}, "--batch: 0 is none that openvino takes"),
    ],
)
def test_what_a_format_does_not_take_is_refused(folder: Path, options, said: str) -> None:
    form = options.pop("form")
    with pytest.raises(UserError, match=said):
        export_folder(folder, form, **options)
    assert {file.name for file in folder.iterdir()} == {"architecture.yaml", "weights.safetensors"}


def test_a_folder_without_a_network_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no trained network there; weights\.safetensors"):
        export_folder(tmp_path, "onnx")


def test_a_program_that_differs_is_not_written(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.export.TOLERANCE", {torch.float32: -1.0})
    monkeypatch.setattr("experiments.programs.TOLERANCE", {torch.float32: -1.0})
    written = export_folder(folder, "onnx")
    assert written.path is None and "outputs differ" in written.message
    assert not (folder / "model.onnx").exists()
