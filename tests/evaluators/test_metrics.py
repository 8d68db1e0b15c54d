"""What a metric is: the shipped ones against their functions, one of a user's own, the cascade."""

from __future__ import annotations

import math

import pytest
import torch
from spaces import random_images, random_labels, randomize_norms, small_space
from torch import nn
from torch.nn import functional as F

from configs.errors import UserError
from evaluators import (
    METRICS,
    LatencySettings,
    Subject,
    count_macs,
    count_params,
    measure_accuracy,
    measure_in_order,
    peak_memory_mb,
    recalibrate,
    register_metric,
)
from evaluators.cascade import in_order
from evaluators.metric import COUNTED, EVALUATED, TIMED, by_registration, describe_metric
from search_space import build_network

SHAPE = (1, 8, 8)


SHIPPED = ["accuracy", "cross_entropy", "latency_ms", "params", "macs", "memory_mb"]


class Images:
    """Two batches for calibration and one for validation."""

    def __init__(self) -> None:
        self.calibration = [(random_images(16, seed=seed), random_labels(16)) for seed in (1, 2)]
        self.validation = [(random_images(32, seed=3), random_labels(32))]


def subject() -> Subject:
    torch.manual_seed(0)
    network = build_network(small_space(), ("conv3", "inv3", "sk", "skip")).eval()
    randomize_norms(network)
    settings = LatencySettings(max_spread=10.0, batch=2)
    return Subject(network, SHAPE, Images, settings, torch.device("cpu"))


def test_the_shipped_metrics_are_their_functions() -> None:
    measured = measure_in_order(subject(), SHIPPED, lambda values: False)
    network = subject().network
    assert measured["params"] == count_params(network)
    assert measured["macs"] == count_macs(network, (1, *SHAPE))
    assert measured["memory_mb"] == pytest.approx(peak_memory_mb(network, (2, *SHAPE)))
    recalibrate(network, Images().calibration)
    assert measured["accuracy"] == measure_accuracy(network, Images().validation)
    images, labels = Images().validation[0]
    with torch.no_grad():
        losses = F.cross_entropy(network.eval()(images), labels, reduction="none")
    assert measured["cross_entropy"] == pytest.approx(losses.mean().item())
    error = METRICS["cross_entropy"].error(measured)
    assert error == pytest.approx(losses.std().item() / math.sqrt(32))
    assert measured["latency_ms"] > 0 and measured["latency_spread"] >= 0
    assert list(METRICS)[:6] == SHIPPED


def test_measuring_leaves_the_network_alone() -> None:
    measured = subject()
    before = {key: value.clone() for key, value in measured.network.state_dict().items()}
    measure_in_order(measured, SHIPPED, lambda values: False)
    assert all(torch.equal(value, before[k]) for k, value in measured.network.state_dict().items())
    assert not measured.network.training


def test_cheap_comes_first_and_expensive_is_not_paid_for_in_vain() -> None:
    names = [metric.name for metric in in_order({"accuracy", "latency_ms", "macs", "params"})]
    assert names == ["params", "macs", "latency_ms", "accuracy"]
    asked: list[list[str]] = []

    def enough(values) -> bool:
        asked.append(list(values))
        return "latency_ms" in values

    measured = measure_in_order(subject(), ("accuracy", "latency_ms", "macs", "params"), enough)
    latency = ["latency_ms", "latency_spread", "latency_reference_ms"]
    assert list(measured) == ["params", "macs", *latency]
    assert asked[0] == ["params", "macs"]  # equal efforts are there together


def test_what_is_known_is_not_measured_again() -> None:
    known = {"latency_ms": 7.0, "latency_spread": 0.1, "accuracy": 55.0, "accuracy_images": 9.0}
    measured = measure_in_order(subject(), ("latency_ms", "macs"), lambda values: False, known)
    assert measured.keys() == {"macs", "latency_ms", "latency_spread"}  # and nothing unasked for
    assert measured["latency_ms"] == 7.0
    stopped = measure_in_order(
        subject(), ("accuracy", "params"), lambda values: True, {"latency_ms": 7.0}
    )
    assert stopped.keys() == {"params"}


def test_a_latency_is_in_the_unit_it_is_given_and_says_so() -> None:
    given = subject()
    given.reference_ms = 1000.0
    measured = measure_in_order(given, ["latency_ms"], lambda values: False)
    assert measured["latency_reference_ms"] == 1000.0
    assert measured["latency_ms"] > 10


def test_the_error_of_an_accuracy_is_that_of_its_number_of_images() -> None:
    error = describe_metric("accuracy").error
    assert error({"accuracy": 80.0, "accuracy_images": 400.0}) == pytest.approx(2.0)  # points
    assert error({"accuracy": 80.0, "accuracy_images": 100.0}) == pytest.approx(4.0)
    assert error({"accuracy": 100.0, "accuracy_images": 100.0}) == pytest.approx(0.705, abs=1e-3)
    assert error({"accuracy": 80.0}) is None
    measured = measure_in_order(subject(), ["accuracy"], lambda values: False)
    assert measured["accuracy_images"] == 32


def test_numbers_as_people_read_them() -> None:
    texts = [
        ("accuracy", 98.333333, "98.33%", "accuracy (%)"),
        ("latency_ms", 0.63812, "0.638 ms", "latency (ms)"),
        ("params", 1064704.0, "1.06M", "params"),
        ("macs", 12_345_678.0, "12.3M", "MACs"),
        ("memory_mb", 3.14159, "3.14 MB", "memory (MB)"),
        ("my_score", 0.123456, "0.1235", "my_score"),  # of a user's evaluator, never declared
    ]
    for name, value, text, title in texts:
        assert describe_metric(name).text(value) == text
        assert describe_metric(name).title == title
    latency = describe_metric("latency_ms")
    assert latency.error({"latency_ms": 2.0, "latency_spread": 0.1}) == pytest.approx(0.1)
    assert latency.error({"latency_ms": 2.0}) is None
    assert by_registration({"zeta", "params", "accuracy", "alpha"}) == [
        "accuracy", "params", "alpha", "zeta",
    ]  # fmt: skip


def test_a_metric_of_ones_own_is_one_registration() -> None:
    @register_metric(
        "layers_3x3",
        label="3x3 layers",
        direction="minimize",
        effort=COUNTED,
        write="{:.0f}".format,
    )
    def layers_3x3(subject: Subject) -> float:
        modules = subject.deployed.modules()
        return sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in modules)

    @register_metric("broken", label="broken", direction="minimize", effort=EVALUATED)
    def broken(subject: Subject) -> float:
        return float("nan")

    measured = measure_in_order(subject(), {"layers_3x3", "params"}, lambda values: False)
    assert measured["layers_3x3"] > 0
    with pytest.raises(UserError, match="metric 'broken' is nan; a finite number is needed"):
        measure_in_order(subject(), {"broken"}, lambda values: False)
    with pytest.raises(UserError, match="metric 'broke' does not exist; did you mean 'broken'"):
        in_order({"broke"})
    with pytest.raises(UserError, match="metric 'params' is registered twice"):
        register_metric("params", label="mine", direction="minimize", effort=TIMED)(layers_3x3)
