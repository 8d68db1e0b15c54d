"""The invariant that holds the house together, and what a path may touch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from spaces import (
    CANDIDATES,
    changed,
    proxyless_space,
    random_images,
    random_labels,
    randomize_norms,
    rednet_space,
    small_space,
    space_values,
    state_of,
)
from torch.nn import functional as F

from configs import UserError
from evaluators import count_macs, count_params
from evaluators.accuracy import inherited_accuracy
from search_space import SearchSpace, build_network
from supernet import Supernet
from supernet.checkpoint import load_weights, save_weights

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "nas-bench-macro_cifar10.json"


def macro_space() -> SearchSpace:
    return SearchSpace.from_yaml(ROOT / "benchmarks" / "nas_bench_macro.yaml")


MORE = {
    "conv5d": {"operator": "convolution", "kernel_size": 5, "dilation": 2, "groups": 4},
    "dw3": {"operator": "depthwise", "kernel_size": 3},
    "dw7": {"operator": "depthwise", "kernel_size": 7},
    "inv5": {"operator": "involution", "kernel_size": 5, "group_channels": 4},
    "inv7": {"operator": "involution", "kernel_size": 7},
    "dyndw": {"operator": "dynamic", "depthwise": True},
    "inv7half": {"operator": "involution", "kernel_size": 7, "width": 0.5},
    "conv3wide": {"operator": "convolution", "width": 1.5},
}
EVERY = {**CANDIDATES, **MORE}


def space_of_every_candidate(block: str) -> SearchSpace:
    """One layer at stride 1, one at stride 2, one at stride 1 with equal channels."""
    stages = [
        {"width": 24, "depth": 1, "stride": 1, "block": block, "expansion": 2},
        {"width": 32, "depth": 2, "stride": 2, "block": block, "expansion": 2},
    ]
    values = {
        "input_size": 9,  # odd
        "in_channels": 1,
        "num_classes": 10,
        "head_width": 20,
        "stem": {"width": 16, "kind": "rednet"},
        "candidates": EVERY,
        "stages": stages,
    }
    return SearchSpace.from_dict({"space": values})


def random_supernet(space: SearchSpace, dtype: torch.dtype = torch.float32) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space)
    randomize_norms(supernet)
    return supernet.to(dtype).eval()


def alone(space: SearchSpace, name: str) -> tuple[str, ...]:
    """The candidate in every layer that offers it."""
    return tuple(name if name in layer.candidates else "conv3" for layer in space.layers)


@pytest.fixture(scope="module", params=["bottleneck", "inverted_residual", "ghost_residual"])
def block(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def supernets(block: str) -> dict[torch.dtype, Supernet]:
    space = space_of_every_candidate(block)
    types = (torch.float32, torch.float64, torch.bfloat16)
    return {dtype: random_supernet(space, dtype) for dtype in types}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_extracted_network_equals_the_path(supernets, name: str, dtype: torch.dtype) -> None:
    supernet = supernets[dtype]
    architecture = alone(supernet.space, name)
    network = supernet.extract(architecture)
    images = random_images(3, size=9).to(dtype)
    logits = network(images)
    assert logits.dtype == dtype
    assert torch.equal(logits, supernet(images, architecture))
    assert torch.isfinite(logits).all() and logits.std() > 0.01
    assert not network.training


@torch.no_grad()
def test_random_paths_and_channels_last(block: str) -> None:
    space = space_of_every_candidate(block)
    supernet = random_supernet(space, torch.float64).to(memory_format=torch.channels_last)
    images = random_images(2, size=9).double().contiguous(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(10):
        architecture = space.sample(rng)
        logits = supernet.extract(architecture)(images)
        torch.testing.assert_close(logits, supernet(images, architecture), rtol=1e-9, atol=1e-9)
        seen.append(logits)
    assert not torch.allclose(seen[0], seen[1])


def test_an_extracted_network_in_training_learns_like_the_path(block: str) -> None:
    space = small_space(block)
    architecture = alone(space, "sk")
    supernet = random_supernet(space).train()
    network = supernet.extract(architecture)
    assert network.training
    for model in (lambda x: supernet(x, architecture), network):
        F.cross_entropy(model(random_images()), random_labels()).backward()
    for key, parameter in network.stages[1][1].operator.named_parameters():
        shared = supernet.layers[3].candidates["sk"].get_parameter(key)
        torch.testing.assert_close(parameter.grad, shared.grad)


def test_evaluations_leave_the_supernet_alone(block: str) -> None:
    space = small_space(block)
    supernet = random_supernet(space)
    before, mode = state_of(supernet), supernet.training
    batches = [(random_images(seed=s), random_labels(seed=s)) for s in range(2)]
    for name in CANDIDATES:
        inherited_accuracy(supernet, alone(space, name), batches, batches)
    assert not changed(before, supernet)
    assert supernet.training == mode
    assert all(p.requires_grad and p.grad is None for p in supernet.parameters())


def test_extracted_weights_are_copies(block: str) -> None:
    space = small_space(block)
    supernet = random_supernet(space)
    before = state_of(supernet)
    for name in CANDIDATES:
        network = supernet.extract(alone(space, name)).train()
        optimizer = torch.optim.SGD(network.parameters(), 0.5)
        network(random_images()).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
    assert not changed(before, supernet)


def touched(supernet: Supernet, architecture: tuple[str, ...]) -> set[str]:
    """Parameters with a gradient after one backward pass, and buffers that moved."""
    supernet.train().zero_grad(set_to_none=True)
    before = state_of(supernet)
    supernet(random_images(), architecture).square().sum().backward()
    gradients = {key for key, p in supernet.named_parameters() if p.grad is not None}
    return gradients | changed(before, supernet)


def test_what_candidates_share_and_what_they_own(block: str) -> None:
    space = small_space(block)
    supernet = random_supernet(space)
    for name in CANDIDATES.keys() - {"skip"}:
        keys = touched(supernet, alone(space, name))
        for index in range(4):
            mine = {key for key in keys if key.startswith(f"layers.{index}.")}
            shared = {key for key in mine if ".block." in key}
            own = mine - shared
            assert {key.split(".")[4] for key in own} == {"0", "1"}  # operator and batch norm
            assert all(key.startswith(f"layers.{index}.candidates.{name}.") for key in own)
            assert {key.split(".")[3] for key in shared} >= {"reduce", "expand"}  # pointwise


def test_every_candidate_has_a_batch_norm_of_its_own(block: str) -> None:
    supernet = random_supernet(small_space(block))
    for layer in supernet.layers:
        norms = [candidate[1] for candidate in layer.candidates.values()]
        assert len({norm.running_mean.data_ptr() for norm in norms}) == len(norms)
        assert "skip" not in layer.candidates


def test_a_skipped_layer_touches_nothing(block: str) -> None:
    supernet = random_supernet(small_space(block))
    keys = touched(supernet, ("skip", "conv3", "conv3", "skip"))
    assert not [key for key in keys if key.startswith(("layers.0.", "layers.3."))]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.5])
def test_a_narrow_candidate_takes_the_first_channels(block: str, share: float) -> None:
    values = space_values(block, ("conv3", "inv3"))
    values["candidates"]["inv3"]["width"] = share
    space = SearchSpace.from_dict({"space": values})
    supernet = random_supernet(space).train()
    narrow, wide = ("inv3", "conv3") if share < 1 else ("conv3", "inv3")
    network = supernet.extract((narrow, wide, narrow, wide))
    assert network.training
    images, labels = random_images(), random_labels()
    for model in (lambda x: supernet(x, (narrow, wide, narrow, wide)), network):
        F.cross_entropy(model(images), labels).backward()
    for index, small in ((0, network.stages[0][0]), (2, network.stages[1][0])):
        block_state = dict(supernet.layers[index].block.named_parameters())
        block_state |= dict(supernet.layers[index].block.named_buffers())
        assert small.width < supernet.layers[index].block.width
        own = {k: v for k, v in small.named_parameters() if not k.startswith("operator.")}
        for key, parameter in own.items():
            gradient = block_state[key].grad
            inside = tuple(map(slice, parameter.shape))
            torch.testing.assert_close(gradient[inside], parameter.grad, rtol=1e-4, atol=1e-6)
            rest = gradient.clone()
            rest[inside] = 0
            assert not rest.any()  # what lies beyond does not learn
        for key, statistic in small.named_buffers():
            if not key.startswith("operator."):
                inside = tuple(map(slice, statistic.shape))
                torch.testing.assert_close(block_state[key][inside], statistic)


def test_a_whole_layer_as_a_candidate() -> None:
    values = space_values("none", ("conv3", "skip"))
    for stage in values["stages"]:
        del stage["expansion"]
    values["candidates"]["mb"] = {"operator": "inverted_residual", "expansion": 2}
    space = SearchSpace.from_dict({"space": values})
    supernet = random_supernet(space)
    rng = np.random.default_rng(0)
    for architecture in (("skip",) * 4, *(space.sample(rng) for _ in range(8))):
        network = supernet.extract(architecture)
        images = random_images(3)
        assert torch.equal(network(images), supernet(images, architecture))
    assert not [key for key in supernet.state_dict() if ".block." in key]
    skipped = {key.split(".")[1] for key in supernet.state_dict() if ".skipped." in key}
    assert skipped == {"2"}  # the only layer that changes the shape


@pytest.mark.parametrize("build", [proxyless_space, rednet_space, macro_space])
def test_published_spaces_extract_to_their_networks(build) -> None:
    space = build()
    supernet, rng = random_supernet(space), np.random.default_rng(0)
    images = random_images(2, channels=3, size=space.input_size)
    for architecture in (("skip",) * len(space.layers), *(space.sample(rng) for _ in range(6))):
        architecture = tuple(
            name if name in layer.candidates else layer.candidates[0]
            for layer, name in zip(space.layers, architecture)
        )
        network = supernet.extract(architecture)
        torch.testing.assert_close(network(images), supernet(images, architecture))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the table of NAS-Bench-Macro is not there")
@pytest.mark.parametrize("key", ["00000000", "02012100", "22222222"])
def test_the_space_of_nas_bench_macro_has_the_published_networks(key: str) -> None:
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))[key]
    network = build_network(macro_space(), tuple(key))
    assert count_params(network) == published["params"]
    assert count_macs(network, (1, 3, 32, 32)) == published["flops"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"expansion": 2}, "space.stages.0.expansion: 2"),
        ({}, "space.candidates.conv3.width: 0.5"),
    ],
)
def test_what_has_no_effect_on_whole_layers_is_refused(changes: dict, named: str) -> None:
    values = space_values("none", ("conv3",))
    values["stages"] = [{"width": 16, "depth": 2, "block": "none", **changes}]
    values["candidates"]["conv3"]["width"] = 0.5
    with pytest.raises(UserError, match=re.escape(named)):
        SearchSpace.from_dict({"space": values})


def test_a_path_outside_the_space_is_refused() -> None:
    supernet = random_supernet(small_space())
    with pytest.raises(UserError, match="layer 2: 'conv9' is not a candidate"):
        supernet(random_images(), ("conv3", "conv3", "conv9", "conv3"))
    with pytest.raises(UserError, match="4 names"):
        supernet.extract(("conv3",))


def test_no_supernet_code_in_a_stand_alone_network() -> None:
    network = random_supernet(small_space()).extract(("sk", "skip", "dyn3", "inv3"))
    assert not [m for m in network.modules() if type(m).__module__.startswith("supernet")]
    fresh = build_network(small_space(), ("sk", "skip", "dyn3", "inv3"))
    assert fresh.state_dict().keys() == network.state_dict().keys()


def test_weights_round_trip(tmp_path) -> None:
    supernet = random_supernet(small_space())
    save_weights(tmp_path / "weights.safetensors", supernet)
    other = Supernet(small_space())
    assert changed(state_of(supernet), other)
    load_weights(tmp_path / "weights.safetensors", other)
    assert not changed(state_of(supernet), other)
