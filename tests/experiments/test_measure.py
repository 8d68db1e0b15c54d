"""`evolute measure`: what it accepts, and that its table shows what was measured."""

from __future__ import annotations

import io
import json
import tempfile

import numpy as np
import pytest
import torch
from rich.console import Console

import experiments.measure
from configs.errors import TooNoisy, UserError
from evaluators import LatencySettings, count_macs, count_params, deployed
from evaluators.runtimes.onnxruntime import to_onnx
from experiments.measure import measure
from search_space import SearchSpace, build_network, save_architecture
from search_space.kernels import active_backend

QUICK = LatencySettings(repeats=5, max_spread=10.0)


@pytest.fixture(autouse=True)
def own_host_folder(tmp_path, monkeypatch) -> None:
    """Own locks and an own reference time: the tests' machine is no quiet one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_an_architecture_file(tmp_path) -> None:
    space = SearchSpace.from_yaml("quickstart")
    architecture = space.sample(np.random.default_rng(0))
    file = save_architecture(tmp_path / "architecture.yaml", space, architecture)
    measurement = measure(str(file), LatencySettings(batch=3, max_spread=10.0), device="cpu")
    (measured,) = measurement.networks
    network = build_network(space, architecture)
    assert measured.params == count_params(network)
    assert measured.macs == count_macs(network, (1, 1, 12, 12))
    assert measured.latency.fingerprint["batch"] == 3
    text = printed(measurement.table())
    assert f"{measured.latency.median_ms:.3f}" in text
    assert f"{measured.latency.spread:.1%}" in text
    for key, value in measured.latency.fingerprint.items():
        assert f"{key}: {value}" in text


def test_the_ends_and_the_plain_networks_of_a_space() -> None:
    measurement = measure("quickstart", QUICK, device="cpu")
    names = [network.name for network in measurement.networks]
    candidates = SearchSpace.from_yaml("quickstart").config.candidates
    assert names == ["smallest", *candidates, "largest"]
    macs = [network.macs for network in measurement.networks]
    assert macs[0] == min(macs) and macs[-1] == max(macs)
    text = printed(measurement.table())
    assert all(name in text for name in names)
    columns = [line for line in text.splitlines() if line.startswith(("  network", "  smallest"))]
    assert max(map(len, columns)) <= 80


def test_a_wrong_choice_of_kernel_is_named(monkeypatch) -> None:
    monkeypatch.setenv("EVOLUTE_INVOLUTION", "fastest")
    active_backend.cache_clear()
    with pytest.raises(UserError, match=r"^EVOLUTE_INVOLUTION=fastest: expected one of"):
        measure("evolute_rednet26", device="cpu", input_size=32)
    active_backend.cache_clear()


def test_a_timm_model_at_another_size() -> None:
    name = "resnet18"
    (small,) = measure(name, QUICK, device="cpu", input_size=32).networks
    assert small.params == 11_689_512
    assert small.latency.fingerprint["input"] == "3x32x32"


def test_several_targets_share_a_table(tmp_path) -> None:
    measurement = measure(["resnet18", "resnet10t"], QUICK, device="cpu", input_size=32)
    names = [network.name for network in measurement.networks]
    assert names == ["resnet18", "resnet10t"]
    text = printed(measurement.table())
    assert all(name in text for name in names) and "1.00" in text and "device: " in text
    first = json.loads(json.dumps(measurement.networks[0].as_values()))
    assert first["params"] == 11_689_512
    assert first["latency"]["fingerprint"]["input"] == "3x32x32"


def test_an_exported_program(tmp_path) -> None:
    space = SearchSpace.from_yaml("quickstart")
    network = build_network(space, space.sample(np.random.default_rng(0))).eval()
    file = tmp_path / "model.onnx"
    file.write_bytes(
        to_onnx(deployed(network), torch.zeros(2, 1, 12, 12), False).SerializeToString()
    )
    (measured,) = measure(str(file), QUICK, device="cpu").networks
    assert measured.latency.fingerprint["runtime"] == "onnxruntime"
    assert measured.latency.fingerprint["batch"] == 2
    assert 0.5 * count_params(network) < measured.params < 3 * count_params(network)
    file.write_bytes(b"no program")
    with pytest.raises(UserError, match="it is no ONNX program"):
        measure(str(file), QUICK, device="cpu")


def test_a_busy_machine_still_counts(monkeypatch) -> None:
    def busy(*arguments, **settings):
        raise TooNoisy("the spread is 80%")

    monkeypatch.setattr(experiments.measure, "measure_latency", busy)
    measurement = measure("resnet18", QUICK, device="cpu", input_size=32)
    assert measurement.networks[0].params == 11_689_512
    assert "11,689,512" in printed(measurement.table())
    assert "too busy" in printed(measurement.table())
    assert measurement.troubles == [
        "resnet18: the spread is 80%. End what else runs here and try again."
    ]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("resnet81", {}, "neither a file, a preset nor a timm model; did you mean 'resnet"),
        ("nothing.yaml", {}, "no such file"),
        ("vit_tiny_patch16_224", {"input_size": 225}, "cannot take images of 3x225x225"),
    ],
)
def test_what_cannot_be_measured(target: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(target, device="cpu", **options)
