"""Metrics on target devices: ``latency_ms@NAME`` is the latency there."""

from __future__ import annotations

import pytest
import torch
from spaces import random_images
from torch import nn

from configs import UserError
from evaluators import LatencySettings, Subject, measure_in_order
from evaluators.cascade import in_order
from evaluators.metric import METRICS, by_registration, describe_metric, metrics_among
from evaluators.subject import time_here

COMPANIONS = {"latency_spread", "latency_reference_ms"}


def test_a_metric_on_a_target_is_the_registered_one_with_its_name() -> None:
    metric = METRICS["latency_ms@pi5"]
    assert metric.title == describe_metric("latency_ms@pi5").title == "latency on pi5 (ms)"
    assert set(metric.companions) == {f"{name}@pi5" for name in COMPANIONS}
    assert metric.direction == "minimize" and metric.effort == METRICS["latency_ms"].effort
    values = {"latency_ms": 9.0, "latency_spread": 1.0, "latency_ms@pi5": 4.0,
              "latency_spread@pi5": 0.5}  # fmt: skip
    assert metric.error(values) == 1.0
    assert metric.error({"latency_ms@pi5": 4.0}) is None
    assert "latency_ms@pi5" in METRICS and "latency_ms@" not in METRICS
    assert "accuracy@pi5" not in METRICS and "latency_spread@pi5" not in METRICS


def test_metrics_on_targets_are_beside_their_own() -> None:
    names = {"zeta", "params", "latency_ms@b", "latency_ms", "latency_ms@a", "accuracy"}
    known = ["accuracy", "latency_ms", "latency_ms@a", "latency_ms@b", "params"]
    assert by_registration(names) == [*known, "zeta"]
    assert [metric.name for metric in metrics_among(names)] == known
    order = [metric.name for metric in in_order(set(known))]
    assert order == ["params", "latency_ms", "latency_ms@a", "latency_ms@b", "accuracy"]


def test_what_is_no_metric_on_a_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="'accuracy@pi5' does not exist; known: latency_ms@pi5"):
        METRICS["accuracy@pi5"]
    with pytest.raises(UserError, match="'latencyms' does not exist; did you mean 'latency_ms'"):
        METRICS["latencyms@pi5"]


def test_each_target_is_timed_by_itself() -> None:
    asked = []

    def time(subject: Subject):
        asked.append(subject.target)
        return time_here(subject)

    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    subject = Subject(
        network=network,
        image_shape=(1, 8, 8),
        load_data=lambda: pytest.fail("no images are needed"),
        settings=LatencySettings(max_spread=10, repeats=12),
        device=torch.device("cpu"),
        time=time,
    )
    names = ("latency_ms@a", "latency_ms", "latency_ms@b")
    values = measure_in_order(subject, names, lambda values: False)
    assert asked == ["", "a", "b"]
    expected = {f"{n}{end}" for n in {"latency_ms", *COMPANIONS} for end in ("", "@a", "@b")}
    assert values.keys() == expected
    assert network(random_images(2)).shape == (2, 144)
