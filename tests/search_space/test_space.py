"""Spaces and architectures as values: sampling, mutating, canonical forms, plugins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from spaces import CANDIDATES, random_images, small_space, space_values

from configs import UserError, load_config
from search_space import (
    ChoiceSpace,
    SearchSpace,
    build_network,
    build_operator,
    load_architecture,
    operator_names,
    register_operator,
    save_architecture,
)
from supernet import Supernet

PLUGIN = """\
from torch import nn
from search_space import register_operator

@register_operator("{name}")
def shuffled(in_channels, out_channels, stride, groups=4):
    return nn.Sequential(
        nn.ChannelShuffle(groups), nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups)
    )
"""

BLOCK_PLUGIN = """\
from torch import nn
from search_space import Block, register_block

@register_block("plain")
class Plain(Block):
    def __init__(self, in_channels, out_channels, width, stride):
        super().__init__(in_channels, out_channels, width, stride)
        self.operator = nn.Identity()
        self.project = nn.Conv2d(width, out_channels, 1)

    @staticmethod
    def operator_width(in_channels, out_channels, expansion):
        return in_channels

    def around(self, x, operator):
        return self.project(operator(x).relu())
"""


def shapes(space: SearchSpace, architecture: tuple[str, ...]) -> tuple:
    """What identifies a stand-alone network here: the shapes of its weights, in order."""
    state = build_network(space, architecture).state_dict()
    return tuple(tuple(tensor.shape) for tensor in state.values())


def everything(space: ChoiceSpace) -> list[tuple[str, ...]]:
    return list(itertools.product(*(layer.candidates for layer in space.layers)))


def test_layers_of_a_space() -> None:
    space = small_space()
    described = [(x.in_channels, x.out_channels, x.stride, x.stage) for x in space.layers]
    assert described == [(16, 16, 1, 0), (16, 16, 1, 0), (16, 24, 2, 1), (24, 24, 1, 1)]
    assert all(layer.candidates == tuple(CANDIDATES) for layer in space.layers)
    assert space.size == 8**4
    assert (space.input_size, space.in_channels, space.num_classes) == (8, 1, 10)


@pytest.mark.parametrize("block", ["bottleneck", "inverted_residual", "ghost_residual"])
@pytest.mark.parametrize(("width", "stride"), [(16, 2), (24, 1), (24, 2)])
def test_a_skuped_layer_that_changes_the_shape_is_its_shortcut(
    block: str, width: int, stride: int
) -> None:
    stage = {"width": width, "depth": 1, "stride": stride, "block": block, "expansion": 2}
    space = small_space(candidates=("conv3", "skip"), stages=[stage])
    network = build_network(space, ("skip",)).eval()
    (skuped,) = network.blocks
    size = 8 // stride
    assert skuped(torch.rand(2, 16, 8, 8)).shape == (2, width, size, size)
    weights = sum(parameter.numel() for parameter in skuped.parameters())
    assert weights == (0 if width == 16 else 16 * width + 2 * width)  # 1x1 convolution and norm


def test_candidates_of_a_stage() -> None:
    values = space_values()
    values["stages"][0]["candidates"] = ["inv3", "skip"]
    space = SearchSpace.from_dict({"space": values})
    assert [layer.candidates for layer in space.layers[:2]] == [("inv3", "skip")] * 2
    assert space.layers[2].candidates == tuple(CANDIDATES)


@pytest.mark.parametrize("space", [small_space(), ChoiceSpace([["a", "b"], ["c"], "xyz"])])
def test_sample_mutate_crossover_stay_in_the_space(space: ChoiceSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = space.sample(rng), space.sample(rng)
        mutated, crossed = space.mutate(a, rng), space.crossover(a, b, rng)
        for architecture in (a, b, mutated, crossed):
            space.validate(architecture)
            assert space.canonical(architecture) == architecture
        assert mutated != a
    again = np.random.default_rng(0)
    assert space.sample(again) == space.sample(np.random.default_rng(0))


def test_mutation_differs_as_a_network() -> None:
    space = small_space(candidates=("conv3", "skip"))  # two changes often lead back
    networks = {a: shapes(space, a) for a in everything(space)}
    rng = np.random.default_rng(0)
    for architecture in everything(space):  # also from forms that aren't canonical
        for _ in range(50):
            assert networks[space.mutate(architecture, rng)] != networks[architecture]


def test_mutation_reaches_every_network() -> None:
    space = small_space(candidates=("conv3", "skip"))
    rng = np.random.default_rng(0)
    current = space.sample(rng)
    seen = set()
    for _ in range(300):
        current = space.mutate(current, rng)
        seen.add(current)
    assert seen == {space.canonical(a) for a in everything(space)}


def test_crossover_takes_layers_from_its_parents() -> None:
    space = ChoiceSpace(["ab"] * 12)
    child = space.crossover(("a",) * 12, ("b",) * 12, np.random.default_rng(0))
    assert set(child) == {"a", "b"}
    assert space.crossover(child, child, np.random.default_rng(1)) == child


def test_sampling_is_uniform() -> None:
    space = ChoiceSpace([["a", "b", "c"], ["x", "y"]])
    rng = np.random.default_rng(0)
    draws = [space.sample(rng) for _ in range(6000)]
    counts = np.array([draws.count(a) for a in everything(space)])
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 20.5  # 0.999 quantile of 5 degrees of freedom


def test_canonical_forms_are_one_to_one_with_networks() -> None:
    space = SearchSpace.from_dict(
        {"space": space_values(
            candidates=("conv3", "inv3", "skip"),
            stages=[{"width": 16, "depth": 3, "expansion": 2},
                    {"width": 24, "depth": 2, "stride": 2, "expansion": 2}],
        )}
    )  # fmt: skip
    of_network: dict[tuple, set] = {}
    for architecture in everything(space):
        canonical = space.canonical(architecture)
        assert space.canonical(canonical) == canonical
        assert shapes(space, canonical) == shapes(space, architecture)
        of_network.setdefault(shapes(space, architecture), set()).add(canonical)
    assert all(len(forms) == 1 for forms in of_network.values())
    assert len(of_network) == (1 + 2 + 4 + 8) * 3 * (1 + 2)  # depths of both stages
    assert space.canonical(("skip", "inv3", "skip", "conv3", "skip")) == (
        "inv3", "skip", "skip", "conv3", "skip",
    )  # fmt: skip


def test_equal_forms_compute_the_same() -> None:
    space = small_space(candidates=("conv3", "skip"))
    network = build_network(space, ("skip", "conv3", "conv3", "skip")).eval()
    canonical = build_network(space, ("conv3", "skip", "conv3", "skip")).eval()
    canonical.load_state_dict(dict(zip(canonical.state_dict(), network.state_dict().values())))
    assert torch.equal(network(random_images()), canonical(random_images()))


def test_a_space_of_one_architecture() -> None:
    for space in (ChoiceSpace([["a"], ["b"]]), small_space(candidates=("conv3",))):
        rng = np.random.default_rng(0)
        (only,) = everything(space)
        assert space.size == 1
        assert space.sample(rng) == space.mutate(only, rng) == only
        assert space.crossover(only, only, rng) == only
    # two spellings of one network
    space = small_space(candidates=("conv3", "skip"), stages=[{"width": 16, "depth": 1}])
    assert space.mutate(("skip",), np.random.default_rng(0)) == ("conv3",)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (("conv3", "inv3", "conv3"), "4 names are needed"),
        ("conv", "4 names are needed"),
        (("conv3", "inv3", "skup", "skip"), "layer 2: 'skup' is not a candidate"),
        (("conv3", "inv33", "conv3", "skip"), "layer 1: 'inv33' .* mean 'inv3'"),
        (("conv3", 3, "conv3", "skip"), "layer 1: 3 is not a candidate"),
    ],
)
def test_what_is_outside_the_space_is_refused(architecture, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        small_space().validate(architecture)


def test_choice_spaces_that_make_no_sense_are_refused() -> None:
    for candidates, expected in [
        ([], "at least one layer"),
        ([["a"], []], "layer 1"),
        ([["a", "a"]], "layer 0: .* different names"),
    ]:
        with pytest.raises(UserError, match=expected):
            ChoiceSpace(candidates)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"candidates": {"inv": {"operator": "involutoin"}}},
         "space.candidates.inv: .*'involutoin' does not exist; did you mean 'involution'"),
        ({"candidates": {"inv": {"operator": "involution", "kernel": 3}}},
         "candidates.inv: .* no option 'kernel'; did you mean 'kernel_size'"),
        ({"stages": [{"width": 8, "depth": 1, "candidates": ["conv5"]}]},
         "stages.0.candidates: 'conv5' is not defined; did you mean 'conv3'"),
        ({"stages": [{"width": 8, "depth": 1, "block": "botleneck"}]},
         "space.stages.0.block: 'botleneck' does not exist; did you mean 'bottleneck'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_named(changes: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        SearchSpace.from_dict({"space": {**space_values(), **changes}})


def test_building_a_space_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small_space()
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_spaces_have_equal_hashes() -> None:
    space, same, other = small_space(), small_space(), small_space("inverted_residual")
    assert hash(space) == hash(same)
    assert {space: 1}[same] == 1
    assert len({space, same, other, ChoiceSpace(["ab"]), ChoiceSpace(["ab"])}) == 3
    values = space_values()
    values["candidates"]["inv3"]["kernel_size"] = 5  # told apart, whatever their hashes
    assert len({space, SearchSpace.from_dict({"space": values})}) == 2


@pytest.mark.parametrize("block", ["bottleneck", "inverted_residual", "ghost_residual"])
def test_networks_of_every_block_train(block: str) -> None:
    space = small_space(block)
    torch.manual_seed(0)
    for name in CANDIDATES:
        architecture = tuple(
            name if name in layer.candidates else "conv3" for layer in space.layers
        )
        network = build_network(space, architecture).train()
        logits = network(random_images(1, size=7))  # batch 1, odd size
        assert logits.shape == (1, 10)
        logits.sum().backward()
        missing = [key for key, p in network.named_parameters() if p.grad is None]
        assert not missing


@pytest.mark.parametrize(
    ("stem", "size"),
    [({"width": 16, "kind": kind, "stride": stride}, math.ceil(32 / stride / 2))
     for kind in ("conv", "resnet", "rednet") for stride in (1, 2, 4)],
)  # fmt: skip
def test_stems(stem: dict, size: int) -> None:
    space = small_space(candidates=("conv3",), stem=stem, head_width=40)
    network = build_network(space, ("conv3",) * 4).eval()
    assert network.forward_features(random_images(2, size=32)).shape == (2, 40, size, size)
    assert network.feature_info[-1]["reduction"] == 2 * stem["stride"]


def test_operators_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="'ghost' is registered twice"):
        register_operator("ghost")(lambda in_channels, out_channels, stride: None)
    build_operator("ghost", 8, 8, 1)  # the first one stays
    assert {"convolution", "involution", "selective_kernel", "dynamic", "ghost", "depthwise",
            "skip"} <= set(operator_names())  # fmt: skip


def test_operator_from_a_file_of_ones_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="shuffled"))
    (tmp_path / "space.yaml").write_text(
        "name: own\nplugins: [mine.py]\nspace:\n  in_channels: 1\n  input_size: 8\n"
        "  stem: {width: 16}\n"
        "  candidates: {conv3: {operator: convolution},"
        " own: {operator: shuffled, groups: 2}, skip: {operator: skip}}\n"
        "  stages: [{width: 16, depth: 2, expansion: 1}, {width: 32, depth: 2, stride: 2}]\n"
    )
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tmp_path / "space.yaml")
    space = SearchSpace(config.space, config.plugins)
    assert SearchSpace.from_yaml(tmp_path / "space.yaml") == space
    architecture = ("own", "own", "own", "skip")
    supernet = Supernet(space).eval()
    extracted = supernet.extract(architecture)
    images = random_images()
    assert torch.equal(extracted(images), supernet(images, architecture))
    assert extracted.stages[0][0].operator[0][1].groups == 2  # the option arrived

    saved = save_architecture(tmp_path / "shipped" / "architecture.yaml", space, architecture)
    (tmp_path / "mine.py").unlink()  # the copy beside the file is enough
    loaded, choices = load_architecture(saved)
    build_network(loaded, choices).load_state_dict(extracted.state_dict())
    assert loaded.plugins == (str(tmp_path / "shipped" / "mine.py"),)


def test_block_from_a_file_of_ones_own(tmp_path) -> None:
    (tmp_path / "plain.py").write_text(BLOCK_PLUGIN)
    (tmp_path / "space.yaml").write_text(
        "name: own\nplugins: [plain.py]\nspace:\n  in_channels: 1\n  input_size: 8\n"
        "  stem: {width: 16}\n"
        "  candidates: {conv3: {operator: convolution}, inv3: {operator: involution}}\n"
        "  stages: [{width: 16, depth: 2, block: plain}, {width: 32, depth: 2, stride: 2}]\n"
    )
    config = load_config(tmp_path / "space.yaml")
    space = SearchSpace(config.space, config.plugins)
    architecture = ("conv3", "inv3", "inv3", "conv3")
    supernet = Supernet(space).eval()
    extracted = supernet.extract(architecture)
    assert torch.equal(extracted(random_images()), supernet(random_images(), architecture))
    assert [type(block).__name__ for block in extracted.stages[0]] == ["Plain", "Plain"]
    assert extracted.stages[0][0].operator[1].num_features == 16


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "mine.py' is not a file"),
        ("import nothing_of_this_name", "mine.py' fails: ModuleNotFoundError"),
        ("def (", "mine.py' fails: SyntaxError"),
        (PLUGIN.format(name="ghost"), "'ghost' is registered twice"),
    ],
)
def test_plugins_that_fail_are_named(tmp_path, source: str | None, expected: str) -> None:
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    values = {"space": space_values(), "plugins": [str(tmp_path / "mine.py")]}
    with pytest.raises(UserError, match=expected):
        SearchSpace.from_dict(values)


def test_a_space_shows_its_layers_in_a_notebook() -> None:
    shown = small_space(candidates=("conv3", "skip"))._repr_html_()
    assert "16 architectures of 4 layers" in shown
    assert shown.count("<td>conv3 skip</td>") == 4
    assert "&lt;b&gt;" in ChoiceSpace([["<b>", "c"]])._repr_html_()
