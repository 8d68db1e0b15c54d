"""The hand-made networks: published counts, timm's conventions, a place in a search."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.models.ghostnet import GhostModule

from configs.errors import UserError
from evaluators import count_macs, count_params
from search_space import build_network, load_architecture, reference_architecture, save_architecture
from search_space.reference_networks import REFERENCES

# millions of parameters and, where their authors count as we do, billions of MACs at 224 pixels
PUBLISHED = {
    "evolute_resnet26": (13.70, 2.34),
    "evolute_resnet38": (19.63, 3.22),
    "evolute_resnet50": (25.56, 4.09),
    "evolute_resnet101": (44.55, 7.80),
    "evolute_resnet152": (60.19, 11.51),
    "evolute_rednet26": (9.23, None),
    "evolute_rednet38": (12.39, None),
    "evolute_rednet50": (15.54, None),
    "evolute_rednet101": (25.65, None),
    "evolute_rednet152": (33.99, None),
    "evolute_sknet50": (27.5, 4.47),
    "evolute_sknet101": (48.9, 8.46),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    params, macs = PUBLISHED[name]
    rounding = 3e-3 if "sknet" in name else 5e-4  # the paper gives three digits, and rounds up
    assert count_params(network) / 1e6 == pytest.approx(params, rel=rounding)
    if macs is not None:
        assert count_macs(network, (1, 3, 224, 224)) / 1e9 == pytest.approx(macs, rel=2e-3)


@pytest.mark.parametrize("depth", [26, 50, 101, 152])
def test_resnets_have_timms_parameters(depth: int) -> None:
    with torch.device("meta"):
        ours, theirs = timm.create_model(f"evolute_resnet{depth}"), _torchvision_like(depth)
    assert count_params(ours) == count_params(theirs)


def _torchvision_like(depth: int) -> torch.nn.Module:
    layers = {26: (1, 2, 4, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, layers)


def test_ghostnet_has_timms_parameters_but_for_what_is_left_out() -> None:
    """The rest: squeeze-and-excitation, projected shortcuts, depthwise layers where the stride is 1
    (ours has them, timm's has not), and the layer between pooling and classifier."""
    with torch.device("meta"):
        ours, theirs = timm.create_model("evolute_ghostnet"), timm.create_model("ghostnet_100")
    counts = []
    for blocks in (ours.stages, theirs.blocks):
        ghosts = [module for module in blocks.modules() if isinstance(module, GhostModule)]
        counts.append([count_params(ghost) for ghost in ghosts])
    assert counts[0] == counts[1]


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["evolute_resnet26", "evolute_rednet26", "evolute_ghost_resnet26", "evolute_ghostnet"]
)
def test_forward_at_full_size(name: str) -> None:
    network = timm.create_model(name).eval()
    images = torch.zeros(1, 3, 224, 224)
    width = 160 if name == "evolute_ghostnet" else 2048
    assert network.stages(network.stem(images)).shape == (1, width, 7, 7)
    logits = network(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, 1000) and logits.isfinite().all()  # also before any training


@torch.no_grad()
@pytest.mark.parametrize("name", REFERENCES)
def test_every_name_is_a_timm_model(name: str) -> None:
    assert timm.is_model(name)
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=7, in_chans=1)
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
        features = timm.create_model(name, features_only=True, out_indices=(0, 3))
        maps = features(torch.zeros(2, 3, 64, 64))
    info = features.feature_info
    expected = [(2, c, 64 // r, 64 // r) for c, r in zip(info.channels(), info.reduction())]
    assert [tuple(m.shape) for m in maps] == expected
    if name != "evolute_ghostnet":
        assert expected == [(2, 256, 16, 16), (2, 2048, 2, 2)]
    config = timm.data.resolve_model_data_config(network)
    assert config["input_size"] == (1, 224, 224)
    first = network.get_submodule(network.pretrained_cfg["first_conv"])
    assert isinstance(first, torch.nn.Conv2d) and first.in_channels == 1


def test_a_point_of_a_space(tmp_path) -> None:
    space, architecture = reference_architecture("evolute_rednet26")
    assert architecture == ("inv7",) * 8
    path = save_architecture(tmp_path / "architecture.yaml", space, architecture)
    assert load_architecture(path) == (space, architecture)
    neighbour = space.mutate(architecture, np.random.default_rng(0))
    with torch.device("meta"):
        hybrid = build_network(space, neighbour)
    assert {"inv7"} < set(neighbour)
    assert count_macs(hybrid, (1, 3, 224, 224)) > 0


def test_a_misspelt_name() -> None:
    with pytest.raises(UserError, match="did you mean 'evolute_rednet50'"):
        reference_architecture("evolute_rednet55")
