"""How a network is described on its run's page."""

from __future__ import annotations

from experiments.tracking.trials import describe
from search import TrialRecord


def test_numbers_have_their_names() -> None:
    record = TrialRecord(3, ("conv3", "inv7"), {"accuracy": 25.0, "latency_ms": 0.277}, "complete")
    assert describe(record) == "conv3 inv7 | accuracy 25.00% | latency 0.277 ms"


def test_an_accuracy_of_verification_is_called_one() -> None:
    """The run of the trial has the inherited one among its metrics."""
    metrics = {"accuracy": 25.0, "inherited_accuracy": 10.0}
    record = TrialRecord(3, ("conv3",), metrics, "complete")
    assert describe(record) == "conv3 | trained alone | accuracy 25.00%"
