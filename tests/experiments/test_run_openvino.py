"""`evolute run` with ``latency.runtime: openvino``: searched in it, shipped with its latency."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from spaces import space_values

from experiments import cli
from search_space import load_architecture

CANDIDATES = {
    "inv3": {"operator": "involution", "kernel_size": 3},
    "inv5": {"operator": "involution", "kernel_size": 5},
    "skip": {"operator": "skip"},
}


@pytest.mark.timeout(600)
def test_it_is_searched_in_openvino_and_ships_that_latency(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    space = space_values(candidates=(), input_size=12)
    stages = [{"width": 16, "depth": 2}, {"width": 16, "depth": 1, "candidates": ["inv3", "inv5"]}]
    values = {
        "name": "tiny",
        "device": "cpu",
        "space": {**space, "candidates": CANDIDATES, "stages": stages},
        "data": {"name": "digits", "limit": 600},
        "train": {"epochs": 1, "batch_size": 48},
        "evaluate": {"calibration_images": 64},
        "latency": {"runtime": "openvino", "repeats": 6, "max_spread": 10},
        "search": {"trials": 3, "workers": 0, "profile_samples": 2, "verify": False},
        "retrain": {"epochs": 1, "batch_size": 32},
    }
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(sys, "argv", ["evolute", "run", "tiny.yaml"])
    cli.main()

    results = tmp_path / "runs" / "tiny"
    assert (results / "report" / "report.html").stat().st_size > 0
    assert "latency_ms" in (results / "report" / "front.csv").read_text()
    folders = sorted(file.parent for file in results.glob("retrained/*/metrics.json"))
    assert folders
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        fingerprints = json.loads((folder / "fingerprint.json").read_text())
        _, architecture = load_architecture(folder / "architecture.yaml")
        assert {"inv3", "inv5"} & set(architecture)  # so there is a program for OpenVINO alone
        assert metrics["latency_ms"] == metrics["latencies"]["model-openvino.onnx"] > 0
        assert fingerprints["searched"]["runtime"] == "openvino"
        assert fingerprints["model-openvino.onnx"] == fingerprints["searched"]
        assert fingerprints["eager"]["runtime"] == "eager" and metrics["latencies"]["eager"] > 0
