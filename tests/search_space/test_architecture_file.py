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
from search_space.blocks import BLOCKS
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
        [sys.executable, "-c", program], cwd=folder, check=True, timeout=300,
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


def test_a_new_classifier_keeps_dtype_and_device(shipped) -> None:
    model = timm.create_model("evolute", architecture=shipped / "architecture.yaml").double()
    model.reset_classifier(7)
    assert model(random_images().double()).shape == (8, 7)
    with torch.device("meta"):
        model = timm.create_model("evolute", architecture=shipped / "architecture.yaml")
    model.reset_classifier(7)
    assert model.fc.weight.device.type == "meta"


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast"])
def test_timm_poolings(shipped, pool: str) -> None:
    file = shipped / "architecture.yaml"
    model = timm.create_model("evolute", architecture=file, global_pool=pool).eval()
    features = model.forward_features(random_images())
    expected = timm.layers.SelectAdaptivePool2d(pool_type=pool, flatten=True)(features)
    assert torch.equal(model.forward_head(features, pre_logits=True), expected)
    assert model(random_images()).shape == (8, 10)
    assert model.head_hidden_size == expected.shape[1]
    model.reset_classifier(3)  # keeps the pooling
    assert model.global_pool.pool_type == pool and model(random_images()).shape == (8, 3)
    whole = timm.create_model("evolute", architecture=file, global_pool="").eval()
    assert whole(random_images()).shape == features.shape
    with pytest.raises(ValueError, match="global_pool: 'most' is not possible; choose avg"):
        timm.create_model("evolute", architecture=file, global_pool="most")


def test_dropout_before_the_classifier(shipped) -> None:
    file, weights = shipped / "architecture.yaml", str(shipped / "weights.safetensors")
    options = {"architecture": file, "checkpoint_path": weights, "drop_rate": 0.5}
    model = timm.create_model("evolute", **options).eval()
    assert torch.equal(model(random_images()), expected_logits(shipped))
    features = model.forward_features(random_images())
    model.train()
    pooled = model.forward_head(features, pre_logits=True)
    assert 0.3 < (pooled == 0).float().mean() < 0.7
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


@pytest.mark.parametrize("block", sorted(set(BLOCKS) - {"none"}))  # no shortcut of its own
def test_stochastic_depth_leaves_out_blocks(tmp_path, block: str) -> None:
    space, architecture = small_space(block), ("conv3",) * 4
    file = save_architecture(tmp_path / "architecture.yaml", space, architecture)
    plain = timm.create_model("evolute", architecture=file)
    randomize_norms(plain)
    model = timm.create_model("evolute", architecture=file, drop_path_rate=0.6)
    model.load_state_dict(plain.state_dict())
    rates = [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6])
    images = random_images(64)
    assert torch.equal(model.eval()(images), plain.eval()(images))

    before = model.stages[0](model.stem(images))
    first = model.stages[1][0](before)
    last = model.stages[1][1].train()  # its shape does not change, so its shortcut is the identity
    for module in last.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    alone = first.relu() if block == "bottleneck" else first
    left_out = (last(first) == alone).flatten(1).all(1).float().mean()
    assert 0.35 < left_out < 0.85


def test_untrained_networks_take_any_number_of_channels(shipped) -> None:
    own = timm.create_model("evolute", architecture=shipped / "architecture.yaml", in_chans=5)
    for model in (own, timm.create_model("evolute_rednet26", in_chans=5)):
        assert model.in_chans == 5
        assert model.eval()(random_images(2, 5, 32)).shape == (2, model.num_classes)


def test_timm_adapts_pretrained_weights_to_channels_and_classes(shipped) -> None:
    file = shipped / "architecture.yaml"
    model = timm.create_model("evolute", architecture=file, pretrained=True).eval()
    assert torch.equal(model(random_images()), expected_logits(shipped))
    model = timm.create_model(
        "evolute", architecture=file, pretrained=True, in_chans=3, num_classes=4
    ).eval()
    images = random_images()
    body = timm.create_model("evolute", architecture=file, pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(  # timm repeats the only channel and divides by their number
        model.forward_head(model.forward_features(images.expand(-1, 3, -1, -1)), pre_logits=True),
        body(images),
    )
    assert model(images.expand(-1, 3, -1, -1)).shape == (8, 4)
    features = timm.create_model(
        "evolute", architecture=file, pretrained=True, features_only=True, in_chans=3
    ).eval()
    assert [m.shape[1] for m in features(images.expand(-1, 3, -1, -1))] == [16, 24]


def test_timm_knows_what_images_a_trained_network_expects(shipped) -> None:
    file = shipped / "architecture.yaml"
    expected = {
        "input_size": [1, 8, 8], "mean": [0.3], "std": [0.25], "interpolation": "bilinear",
        "crop_pct": 1.0, "crop_mode": "center",
    }  # fmt: skip
    names = [f"digit {n}" for n in range(10)]
    save_architecture(
        file, small_space(), ARCHITECTURE, {**expected, "num_classes": 10, "label_names": names}
    )
    assert load_architecture(file) == (small_space(), ARCHITECTURE)
    for options in ({}, {"features_only": True}, {"num_classes": 3}, {"pretrained": True}):
        model = timm.create_model("evolute", architecture=file, **options)
        assert timm.data.resolve_model_data_config(model) == {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in expected.items()
        }
        assert model.pretrained_cfg["label_names"] == tuple(names)


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
        ({"architecture": ["conv3", "conv3", "gone", "conv3"]}, "layer 2: 'gone'"),
        ({"architecture": 5}, "architecture"),
        ({"space": {"stages": []}}, "space"),
        ({"space": 5}, "space"),
        ({"plugins": ["gone.py"]}, "gone.py' is not a file"),
        ({"pretrained_cfg": 5}, "pretrained_cfg: 5 holds no keys"),
        ({"pretrained_cfg": {"median": 5}}, "pretrained_cfg: .*median"),
    ],
)
def test_damaged_files_are_named(shipped, changes: dict, expected: str) -> None:
    file = shipped / "architecture.yaml"
    damage(file, **changes)
    with pytest.raises(UserError, match=expected) as caught:
        timm.create_model("evolute", architecture=file)
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
