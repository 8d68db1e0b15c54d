"""How long a run takes, told before it begins."""

from __future__ import annotations

import time

import pytest
from spaces import small_config

from experiments.console import console
from experiments.plan import Part, Plan, measure_plan
from experiments.train import train_supernet
from experiments.workspace import Workspace


def test_the_parts_are_those_of_a_run() -> None:
    config = small_config(
        data={"name": "digits", "limit": 400},
        train={"epochs": 3, "batch_size": 32},
        search={"workers": 0, "trials": 7},
        verify={"budget": 0.5},
        retrain={"epochs": 2, "seeds": 2, "batch_size": 32},
        latency={"max_spread": 10, "repeats": 6},
    )
    plan = measure_plan(config)
    supernet, search, verification, retraining = plan.parts
    assert (supernet.count, search.count, retraining.count) == (3, 7, 4)
    assert verification.total == pytest.approx(0.5 * supernet.total)
    assert all(part.seconds > 0 for part in plan.parts)
    text = str(plan)
    assert "Supernet: 3 epochs x " in text and "Search: 7 trials x " in text
    assert text.splitlines()[-1].startswith("About ")


def test_the_estimate_of_a_training_is_of_its_size(tmp_path) -> None:
    """Within a factor of ten: it is from three steps, on a machine with other work."""
    config = small_config(
        data={"name": "digits"},
        train={"epochs": 4, "batch_size": 32},
        latency={"max_spread": 10, "repeats": 6},
    )
    foretold = measure_plan(config).parts[0].total
    begun = time.monotonic()
    train_supernet(config, Workspace(tmp_path))
    took = time.monotonic() - begun
    assert took / 10 < foretold < 10 * took


def test_how_a_plan_reads(capsys) -> None:
    parts = (Part("supernet", 40, "epochs", 4.1), Part("search", 300, "trials", 1.3, 2))
    assert str(Plan(parts)).splitlines() == [
        "Supernet: 40 epochs x 4.1 s = 3 min.",
        "Search: 300 trials x 1.3 s, 2 at a time = 3 min.",
        "About 6 min in all, on this machine as it is now. Stop it whenever you like: the same "
        "command goes on.",
    ]
    console.print(Plan(parts), soft_wrap=True)
    assert capsys.readouterr().out.rstrip("\n") == str(Plan(parts))
