"""`evolute export --format openvino` in int8 and bfloat16: compared with float32, and loadable."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from photographs import CLASSES, write_photographs
from readme_blocks import run_blocks
from spaces import randomize_norms, space_values

from configs import UserError, config_to_dict
from configs.loading import check_config
from evaluators.accuracy import measure_accuracy
from experiments import cli
from experiments.data.splits import load_splits
from experiments.export import export_folder
from search_space import SearchSpace, build_network, save_architecture
from supernet import seed_everything
from supernet.checkpoint import save_weights

ARCHITECTURE = ("conv3", "inv3", "conv3", "skip")
TYPES = {"bfloat16": ("openvino",), "int8": ("openvino", "nncf")}
BATCH = 3  # the validation images do not fill the last one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a network of random weights, with its data."""
    seed_everything(0, 0)
    write_photographs(tmp_path / "photos", train=40, tested=1)
    values = space_values(candidates=("conv3", "inv3", "skip"), input_size=16, in_channels=3)
    config = check_config(
        {
            "name": "photos",
            "device": "cpu",
            "space": {**values, "num_classes": 3},
            "data": {"name": "images", "root": str(tmp_path / "photos")},
            "latency": {"max_spread": 10, "repeats": 6},
            "retrain": {"batch_size": 16},
        }
    )
    folder = tmp_path / "runs" / "retrained" / "n-0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    space = SearchSpace(config.space)
    network = build_network(space, ARCHITECTURE)
    randomize_norms(network)
    splits = load_splits(config, "cpu", 16)
    (folder / "float32.txt").write_text(str(measure_accuracy(network.eval(), splits.validation)))
    expected = {
        "input_size": [3, 16, 16], "label_names": list(CLASSES), "interpolation": "bilinear",
        "mean": list(splits.preprocessing.mean), "std": list(splits.preprocessing.std),
    }  # fmt: skip
    save_architecture(folder / "architecture.yaml", space, ARCHITECTURE, expected)
    save_weights(folder / "weights.safetensors", network)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", TYPES)
def test_it_is_compared_with_float32_and_runs(folder: Path, dtype: str, monkeypatch, capsys):
    for package in TYPES[dtype]:
        pytest.importorskip(package)
    from evaluators.runtimes.openvino import openvino_extension

    photograph = folder / "photograph.png"
    shutil.copy(next(folder.parents[2].glob("photos/val/*/*.png")), photograph)
    for tested in folder.parents[2].glob("photos/val/*/*.png"):
        tested.write_bytes(b"no image")  # the test split is never looked at
    command = ["evolute", "export", str(folder), "--format", "openvino", "--dtype", dtype]
    monkeypatch.setattr(sys, "argv", [*command, "--batch", str(BATCH)])
    cli.main()
    said = " ".join(capsys.readouterr().out.split())
    assert "validation images: " in said and f"% in {dtype}" in said and " ms in float32" in said
    file = {"bfloat16": "model-openvino-bfloat16.onnx", "int8": "model-openvino-int8.xml"}[dtype]
    kept = json.loads((folder / "exports.json").read_text())[file]
    assert kept["batch"] == BATCH and kept["dtype"] == dtype
    assert kept["float32_accuracy"] == pytest.approx(float((folder / "float32.txt").read_text()))
    assert abs(kept["validation_accuracy"] - kept["float32_accuracy"]) <= 15
    assert 0 < kept["difference"] < 0.2 and kept["images"] % BATCH != 0
    assert kept["latency_ms"] > 0 and kept["float32_latency_ms"] > 0
    if dtype == "int8" and openvino_extension():
        (own,) = [name for name in kept["in_float"] if name.startswith("Involution")]
        assert "in float32 as before: " in said and own in said
        assert b"FakeQuantize" in (folder / file).read_bytes()
        assert not [name for name in kept["in_float"] if name.startswith("Convolution")]
    (answer,) = run_blocks(folder, photograph, file).values()
    assert answer in CLASSES


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_missing_is_named(folder: Path, dtype: str, monkeypatch) -> None:
    package = TYPES[dtype][-1]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert find_spec(package) is None
    with pytest.raises(UserError, match=f"{dtype} needs the missing package.*{package}.*evolute"):
        export_folder(folder, "openvino", dtype=dtype)


def test_a_folder_without_images_is_refused(folder: Path) -> None:
    pytest.importorskip("openvino")
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml: not there; it says which images"):
        export_folder(folder, "openvino", dtype="bfloat16")
