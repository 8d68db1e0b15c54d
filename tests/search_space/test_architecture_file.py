"""`architecture.yaml`: complete in itself, and a timm model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from spaces import random_images, randomize_norms, small_space, state_of

from configs import UserError
from search_space import (
    SearchSpace,
    build_network,
    load_architecture,
    save_architecture,
)
from supernet.checkpoint import load_weights, save_weights

ARCHITECTURE = ("inv3", "skip", "dyn3", "ghost3")


@pytest.fixture
def shipped(tmp_path) -> Path:
    """A folder as `retrain` leaves it: the architecture and its weights."""
    space = small_space()
    save_architecture(tmp_path / "architecture.yaml", space, ARCHITECTURE)
    torch.manual_seed(0)
    network = build_network(space, ARCHITECTURE)
    randomize_norms(network)
    save_weights(tmp_path / "weights.safetensors", network)
    return tmp_path


def expected_logits(shipped: Path) -> torch.Tensor:
    network = build_network(*load_architecture(shipped / "architecture.yaml"))
    load_weights(shipped / "weights.safetensors", network)
    return network.eval()(random_images())


@pytest.mark.parametrize("space", [small_space(), SearchSpace.from_yaml("quickstart")])
def test_round_trip(tmp_path, space: SearchSpace) -> None:
    for seed in range(5):
        architecture = space.sample(np.random.default_rng(seed))
        path = save_architecture(tmp_path / "new" / f"{seed}.yaml", space, architecture)
        loaded, choices = load_architecture(path)
        assert (loaded, choices) == (space, architecture)
        assert SearchSpace.from_yaml(path) == space  # the file is also one of a space
    assert sorted(os.listdir(tmp_path / "new")) == [f"{seed}.yaml" for seed in range(5)]


def test_outside_the_space_nothing_is_written(tmp_path) -> None:
    with pytest.raises(UserError, match="layer 0: 'conv'"):
        save_architecture(tmp_path / "a.yaml", small_space(), ("conv", *ARCHITECTURE[1:]))
    assert os.listdir(tmp_path) == []


def test_another_process_elsewhere_builds_the_network(shipped, tmp_path_factory) -> None:
    program = (
        "import sys, torch, timm, search_space\n"
        "heavy = {'ray', 'mlflow', 'optuna', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"model = timm.create_model('evolute', architecture={str(shipped / 'architecture.yaml')!r},"
        f" checkpoint_path={str(shipped / 'weights.safetensors')!r}).eval()\n"
        "images = torch.load('images.pt')\n"
        "torch.save(model(images), 'logits.pt')\n"
    )
    folder = tmp_path_factory.mktemp("elsewhere")
    torch.save(random_images(), folder / "images.pt")
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    torch.testing.assert_close(torch.load(folder / "logits.pt"), expected_logits(shipped))


def test_timm_loads_weights(shipped) -> None:
    model = timm.create_model(
        "evolute",
        architecture=shipped / "architecture.yaml",
        checkpoint_path=str(shipped / "weights.safetensors"),
    ).eval()
    assert torch.equal(model(random_images()), expected_logits(shipped))
    assert model.pretrained_cfg["input_size"] == (1, 8, 8)
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 10


def test_timm_features(shipped) -> None:
    file, weights = shipped / "architecture.yaml", str(shipped / "weights.safetensors")
    features = timm.create_model(
        "evolute", architecture=file, features_only=True, checkpoint_path=weights
    ).eval()
    assert features.feature_info.channels() == [16, 24]
    assert features.feature_info.reduction() == [1, 2]
    network = timm.create_model("evolute", architecture=file, checkpoint_path=weights).eval()
    first, second = features(random_images())
    assert torch.equal(first, network.stages[0](network.stem(random_images())))
    assert torch.equal(second, network.forward_features(random_images()))
    again = timm.create_model("evolute", architecture=file, features_only=True)
    again.load_state_dict(features.state_dict())  # its own names work as before
    only = timm.create_model(
        "evolute", architecture=file, features_only=True, out_indices=(0,), checkpoint_path=weights
    ).eval()
    (alone,) = only(random_images())
    assert torch.equal(alone, first)


def test_timm_features_of_other_weights_are_refused(shipped) -> None:
    other = build_network(small_space(), ("conv3",) * 4)
    save_weights(shipped / "other.safetensors", other)
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model(
            "evolute", architecture=shipped / "architecture.yaml", features_only=True,
            checkpoint_path=str(shipped / "other.safetensors"),
        )  # fmt: skip


def test_classifier_can_be_replaced(shipped) -> None:
    file = shipped / "architecture.yaml"
    model = timm.create_model("evolute", architecture=file, num_classes=3).eval()
    assert model(random_images()).shape == (8, 3)
    body = state_of(model.stages)
    model.reset_classifier(7)
    assert model(random_images()).shape == (8, 7)
    assert (model.num_classes, model.get_classifier().out_features) == (7, 7)
    assert all(torch.equal(value, body[key]) for key, value in model.stages.state_dict().items())

    features = model.forward_features(random_images())
    assert features.shape == (8, model.num_features, 4, 4)
    assert torch.equal(model.forward_head(features), model(random_images()))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    model.reset_classifier(0)
    assert torch.equal(model(random_images()), pooled)
    model.reset_classifier(0, global_pool="")
    assert torch.equal(model(random_images()), features)
    assert timm.create_model("evolute", architecture=file, num_classes=0).num_classes == 0


def test_timm_in_channels(shipped) -> None:
    file = shipped / "architecture.yaml"
    timm.create_model("evolute", architecture=file, in_chans=1)
    with pytest.raises(UserError, match="in_chans: 3 is not possible; the space has 1"):
        timm.create_model("evolute", architecture=file, in_chans=3)


def damage(file: Path, **changes: object) -> None:
    values = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    file.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architecture": None}, "the key `architecture` is missing"),
        ({"space": None}, "the key `space` is missing"),
        ({"architecture": ["conv3"]}, "4 names are needed"),
        ({"architecture": ["conv3", "conv3", "skip", "conv3"]}, "layer 2: 'skip'"),
        ({"architecture": 5}, "architecture"),
        ({"space": {"stages": []}}, "space"),
        ({"space": 5}, "space"),
        ({"plugins": ["gone.py"]}, "gone.py' is not a file"),
    ],
)
def test_damaged_files_are_named(shipped, changes: dict, expected: str) -> None:
    file = shipped / "architecture.yaml"
    damage(file, **changes)
    with pytest.raises(UserError, match=expected) as caught:
        load_architecture(file)
    assert str(file) in str(caught.value)


def test_files_that_are_none_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: No such file"):
        load_architecture(tmp_path / "gone.yaml")
    (tmp_path / "cut.yaml").write_text("architecture: [conv3, inv")
    with pytest.raises(UserError, match=r"cut\.yaml is not valid YAML"):
        load_architecture(tmp_path / "cut.yaml")
    with pytest.raises(UserError, match="No such file"):
        timm.create_model("evolute", architecture=tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "damaged"), (b"\x08" * 50, "damaged"), (None, "no such")]
)
def test_damaged_weights_are_named(shipped, content: bytes | None, expected: str) -> None:
    file = shipped / "weights.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        load_weights(file, build_network(small_space(), ARCHITECTURE))
    assert str(file) in str(caught.value)


def test_weights_of_another_network_are_refused(shipped) -> None:
    network = build_network(small_space(), ("conv3",) * 4)
    before = state_of(network)
    with pytest.raises(UserError, match="belong to another network"):
        load_weights(shipped / "weights.safetensors", network)
    assert before.keys() == network.state_dict().keys()
