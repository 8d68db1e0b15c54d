"""Scores of untrained networks against dense calculations on small ones."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spaces import changed, random_images, small_space, state_of
from torch import nn
from torch.nn import functional as F

from configs.errors import UserError
from evaluators import METRICS, LatencySettings, Subject, measure_in_order
from evaluators.training_free import SEED, naswot, trainability
from search_space import build_network

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "nas-bench-macro_cifar10.json"


class TwoLayers(nn.Module):
    """Two ReLUs: one a function, one a module that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 9), nn.Linear(9, 4)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.second(F.relu(self.first(x.flatten(1)))))


def redrawn(network: nn.Module) -> nn.Module:
    """Give a network the weights that the scores look at."""
    torch.manual_seed(SEED)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.constant_(parameter, float(not name.endswith("bias")))
    return network


@torch.no_grad()
def test_naswot_is_the_log_determinant_of_the_agreements() -> None:
    images = random_images(5, channels=1, size=8)[:, :, :2, :3]
    network = redrawn(TwoLayers())
    before = network.first(images.flatten(1))
    after = network.second(before.clamp(min=0))
    codes = (torch.cat([before, after], 1) > 0).int().tolist()  # (5, 13)
    agreements = [[sum(a == b for a, b in zip(x, y)) for y in codes] for x in codes]
    assert agreements[0][0] == 13 and agreements[0][1] < 13
    expected = math.log(np.linalg.det(np.array(agreements, dtype=float)))
    assert naswot(TwoLayers(), images) == pytest.approx(expected, rel=1e-9)


def test_naswot_of_images_that_are_told_apart_in_all_places() -> None:
    class Signs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x.flatten(1))

    apart = torch.tensor([[1.0] * 4, [-1.0] * 4]).reshape(2, 1, 2, 2)
    assert naswot(Signs(), apart) == pytest.approx(math.log(16))  # [[4, 0], [0, 4]]
    assert naswot(Signs(), apart.abs()) == -math.inf  # one code


def test_trainability_is_that_of_the_blocks_jacobians() -> None:
    class Blocks(nn.Module):
        """Two 1x1 convolutions, of which one halves the image, and an identity."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 3, 1, bias=False)
            halves = nn.Conv2d(3, 4, 2, stride=2, bias=False)
            keeps = nn.Conv2d(4, 4, 1, bias=False)
            self.stages = nn.Sequential(nn.Sequential(halves, nn.Identity()), nn.Sequential(keeps))

    images = random_images(6, channels=1, size=16)
    network = redrawn(Blocks())
    scores = []
    for conv, shape in ((network.stages[0][0], (6, 4, 8, 8)), (network.stages[1][0], (6, 4, 8, 8))):
        signs = torch.randint(0, 2, shape).float() * 2 - 1  # the same draws
        kernel = conv.weight.detach().flatten(1)  # (out, in * pixels behind one)
        rows = signs.permute(0, 2, 3, 1).reshape(-1, 4).double()
        gradients = rows @ kernel.double()
        largest = np.linalg.svd((gradients.T @ rows / len(rows)).numpy(), compute_uv=False)[0]
        scores.append(2 - largest - 1 / largest)
    assert trainability(Blocks(), images) == pytest.approx(np.mean(scores), rel=1e-4)


def test_a_block_that_keeps_gradients_is_the_most_trainable() -> None:
    from evaluators.training_free import _block_score

    signs = torch.randint(0, 2, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    kept, doubled, halved = (_block_score(factor * signs, signs) for factor in (1.0, 2.0, 0.5))
    assert kept == pytest.approx(0, abs=0.01) and max(doubled, halved) < -0.4
    odd = torch.ones(2, 3, 7, 5)  # 7 x 5 pixels become 4 x 3
    assert math.isfinite(_block_score(odd, torch.ones(2, 4, 4, 3)))


@pytest.mark.parametrize("score", [naswot, trainability])
@pytest.mark.parametrize("block", ["bottleneck", "inverted_residual"])
def test_a_score_is_of_the_architecture_alone(score, block: str) -> None:
    space, images = small_space(block), random_images(16)
    architecture = ("conv3", "inv3", "sk", "skip")
    network = build_network(space, architecture).eval()
    before, random_state = state_of(network), torch.get_rng_state()
    first = score(network, images)
    assert not changed(before, network) and not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():  # as if it had been trained
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert score(network, images) == first
    assert score(build_network(space, ("conv3", "inv3", "dyn3", "skip")), images) != first


def test_every_operator_has_scores() -> None:
    space, images = small_space(), random_images(32)
    for name in space.layers[0].candidates:
        names = [name if name in layer.candidates else "conv3" for layer in space.layers]
        network = build_network(space, tuple(names))
        assert math.isfinite(naswot(network, images))
        assert trainability(network, images) < 0.1


def test_scores_are_metrics() -> None:
    class Images:
        def __init__(self) -> None:
            self.calibration = [(random_images(40), torch.zeros(40))]
            self.validation: list = []

    network = build_network(small_space(), ("conv3", "inv3", "sk", "skip"))
    subject = Subject(network, (1, 8, 8), Images, LatencySettings(), torch.device("cpu"))
    measured = measure_in_order(subject, ("trainability", "naswot"), lambda values: False)
    assert measured["naswot"] == naswot(network, random_images(40)[:32])
    assert measured["trainability"] == trainability(network, random_images(40)[:32])
    assert METRICS["naswot"].direction == METRICS["trainability"].direction == "maximize"


def test_networks_without_what_a_score_needs_are_refused() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UserError, match="no ReLU-like activation"):
        naswot(linear, random_images(4))
    with pytest.raises(UserError, match="no `stem` and `stages`"):
        trainability(linear, random_images(4))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the table of NAS-Bench-Macro is not there")
@pytest.mark.parametrize("key", ["00000000", "02012100", "11111221", "20100102", "22222222"])
def test_the_networks_of_nas_bench_macro_are_the_published_ones(key: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    from nas_bench_macro_network import MacroNetwork

    from evaluators import count_macs, count_params

    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))[key]
    network = MacroNetwork(key).eval()
    assert count_params(network) == published["params"]
    assert count_macs(network, (1, 3, 32, 32)) == published["flops"]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
