"""The sentence on whether hybrids won."""

from __future__ import annotations

import pytest

from experiments.reporting.verdict import verdict
from search.trials import TrialRecord

PLAIN = ("conv3", "conv3")


def plain(architecture: tuple[str, ...]) -> bool:
    return len(set(architecture) - {"skip"}) <= 1


def record(architecture: tuple[str, ...], accuracy: float, latency: float) -> TrialRecord:
    metrics = {"accuracy": accuracy, "accuracy_images": 5000.0, "latency_ms": latency}
    metrics["inherited_accuracy"] = 50.0
    return TrialRecord(0, architecture, metrics, "complete")


@pytest.mark.parametrize(
    ("hybrid", "said"),
    [
        (record(("inv7", "conv3"), 72.0, 0.5), "A hybrid wins: the most accurate one, inv7 conv3"),
        (record(("inv7", "conv3"), 67.0, 2.0), "No hybrid wins: "),
        (record(("inv7", "conv3"), 70.9, 1.0), "Hybrids neither win nor lose: "),
    ],
)
def test_both_outcomes_and_none(hybrid: TrialRecord, said: str) -> None:
    convolution = record(PLAIN, 70.0, 1.0)
    worse = [record(("inv7", "inv7"), 60.0, 0.1), record(("skip", "conv3"), 69.0, 0.6)]
    text = verdict([*worse, convolution, hybrid], plain)
    assert text.startswith(said)
    assert "conv3 throughout (70.00%, 1 ms)" in text
    assert "inherited weights" not in text


def test_how_much_and_at_which_cost() -> None:
    text = verdict([record(PLAIN, 70.0, 1.0), record(("inv7", "conv3"), 67.0, 1.25)], plain)
    assert "has -3.0 ± 0.9 points at 25% more latency against" in text


def test_inherited_accuracies_are_named_so() -> None:
    records = [record(PLAIN, 70.0, 1.0), record(("inv7", "conv3"), 67.0, 1.0)]
    for each in records:
        del each.metrics["inherited_accuracy"]  # type: ignore[attr-defined]
    assert verdict(records, plain).endswith("which rank only roughly.")


def test_of_one_kind_alone() -> None:
    fast = record(("skip", "conv3"), 69.0, 0.6)  # shallow, and no hybrid
    assert verdict([record(PLAIN, 70.0, 1.0), fast], plain) == (
        "No hybrid wins: none is among the 2 networks compared, of which conv3 throughout "
        "(70.00%, 1 ms) is the most accurate."
    )
    assert verdict([record(("inv7", "conv3"), 70.0, 1.0)], plain) == ""
