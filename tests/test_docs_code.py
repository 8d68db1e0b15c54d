"""Every block of Python in the documents is run, and every piece of configuration is read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import DOCUMENTS, ROOT, Block, blocks, inline_code
from PIL import Image
from runtimes import require
from spaces import random_images, randomize_norms, small_space, space_values

from configs import Config
from configs.loading import check_config
from configs.space import Space
from experiments.export import export_folder
from search_space import build_network, save_architecture
from supernet.checkpoint import save_weights

# Files that the text calls by a name: other tests write them under it and use what is in them.
FILES = {
    "docs/extending.md": ("tests/test_docs.py", "shuffle robustness greedy traced plain stripes"),
    "docs/latency.md": ("tests/test_docs_latency.py", "board phone"),
}
# Blocks that load what takes a C++ compiler half a minute, and the test that loads the same.
COMPILED = {"aoti_load_package": "tests/experiments/test_export.py"}
RUNTIMES = {  # what a block names, the runtime that it needs, and the format of the file it loads
    "openvino": ("openvino", "openvino"),
    "onnxruntime_extension": ("onnxruntime_operators", "onnx-operators"),
}
LESS = {"networks=40": "networks=4"}  # as written, but in seconds
BLOCKS = [block for block in blocks("py", "python") if not block.name]
PYTHON = [block for block in BLOCKS if not any(name in block.text for name in COMPILED)]
ARCHITECTURE = ("inv3", "conv3", "dw5", "skip")
BEST = "best-1a2b3c4d"  # how the documents call the folder of a retrained network


def test_files_of_a_guide_are_run_by_its_tests() -> None:
    found: dict[str, set[str]] = {}
    for block in blocks("py", "python"):
        if block.name:
            found.setdefault(block.document, set()).add(block.name.removesuffix(".py"))
    assert found == {document: set(names.split()) for document, (_, names) in FILES.items()}
    for test, names in FILES.values():
        text = (ROOT / test).read_text(encoding="utf-8")
        assert all(f'"{name}"' in text for name in names.split())


def test_blocks_that_are_compiled_are_run_elsewhere() -> None:
    assert len(BLOCKS) - len(PYTHON) == len(COMPILED)
    for name, test in COMPILED.items():
        assert f"{name}(" in (ROOT / test).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the blocks are run: a trained network, a configuration, a photograph and a table."""
    folder = tmp_path_factory.mktemp("documents")
    retrained = folder / "runs" / "photos" / "retrained" / BEST
    retrained.mkdir(parents=True)
    space = small_space(candidates=("conv3", "inv3", "dw5", "skip"))
    network = build_network(space, ARCHITECTURE)
    randomize_norms(network)
    expected = {
        "input_size": [1, 8, 8],
        "mean": [0.5],
        "std": [0.3],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "label_names": list("0123456789"),
    }
    save_architecture(retrained / "architecture.yaml", space, ARCHITECTURE, expected)
    save_weights(retrained / "weights.safetensors", network.eval())
    (folder / "best").symlink_to(retrained)
    values = {
        "name": "photos",
        "device": "cpu",
        "space": space_values(candidates=("conv3", "inv3", "skip")),
        "data": {"name": "digits", "limit": 300},
        "latency": {"max_spread": 10, "repeats": 5},
        "search": {"workers": 0},
        "retrain": {"epochs": 1, "batch_size": 64},
    }
    (folder / "photos.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    Image.new("L", (20, 16), 90).save(folder / "photo.jpg")
    table = {
        " ".join(a): {"accuracy": 80 + a.count("inv7"), "latency_ms": 1.0 + a.count("conv3")}
        for a in itertools.product(("conv3", "inv7", "skip"), repeat=4)
    }
    (folder / "table.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_block_of_python_runs(block: Block, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    text = block.text
    for word, (runtime, form) in RUNTIMES.items():
        if word in text:
            require(runtime)
            assert export_folder(folder / "best", form).path is not None
    for whole, small in LESS.items():
        text = text.replace(whole, small)
    names: dict[str, Any] = {}
    exec(compile(text, str(block), "exec"), names)
    if network := names.get("network"):
        assert network.eval()(random_images(2)).shape == (2, 10)
    if "ranking" in names:
        assert len(names["ranking"].predictors) > 1
    if "result" in names:
        assert names["result"].front
    if "session" in names:
        (logits,) = names["session"].run(None, {"images": random_images(1).numpy()})
        assert logits.shape == (1, 10)
    if "core" in names:
        assert names["model"](random_images(1).numpy())[0].shape == (1, 10)


def test_blocks_that_run_less_are_still_there() -> None:
    assert all(any(whole in block.text for block in PYTHON) for whole in LESS)


YAML = [str(block.text) for block in blocks("yaml")]
YAML += [block.text for block in blocks("text") if block.text.startswith("plugins:")]
SECTIONS = {field.name for field in dataclasses.fields(Config)}
OF_SPACE = {field.name for field in dataclasses.fields(Space)}


def inline_yaml() -> list[str]:
    """The sections in running text, such as `latency: {runtime: openvino}`."""
    found = {code for _, code in inline_code() if code.partition(": {")[0] in SECTIONS}
    return sorted(code for code in found if code.endswith("}"))


def test_pieces_of_configuration_are_found() -> None:
    assert len(DOCUMENTS) > 20 and len(YAML) >= 5 and len(inline_yaml()) >= 3


@pytest.mark.parametrize("text", [*YAML, *inline_yaml()])
def test_every_piece_of_configuration_is_read(text: str) -> None:
    given = yaml.safe_load(text)
    values: dict[str, Any] = {"name": "documents", "space": space_values()}
    given.pop("plugins", None)  # tests/test_docs.py reads them, with the files of the guide
    if not given.keys() <= SECTIONS:
        assert given.keys() <= OF_SPACE
        given = {"space": given}
    if "space" in given:
        candidates = given["space"].get("candidates", {})
        # an operator of one's own is known once its plugin is loaded
        values["space"] |= {**given.pop("space"), "stages": [{"width": 16, "depth": 1}]}
        assert all("operator" in options for options in candidates.values())
    objectives = given.get("search", {}).get("objectives", {})
    if own := objectives.keys() & {"noise_loss"}:
        objectives = {name: way for name, way in objectives.items() if name not in own}
        given["search"]["objectives"] = objectives
    check_config({**values, **given})
