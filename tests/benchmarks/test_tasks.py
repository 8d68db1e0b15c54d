"""What the benchmark of samplers is judged by."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict

import numpy as np
import pytest

from benchmarks.nas_bench_macro import DATA, NasBenchMacro, load_table
from benchmarks.synthetic import CANDIDATES, IMAGES, TYPICAL, Landscape


@pytest.mark.skipif(not DATA.exists(), reason="NAS-Bench-Macro is not here")
def test_equal_networks_of_nas_bench_macro_have_equal_published_entries() -> None:
    entries = defaultdict(set)
    for key, entry in json.loads(DATA.read_text()).items():
        values = (entry["mean_acc"], entry["params"], entry["flops"])
        entries[NasBenchMacro().canonical(tuple(key))].add(values)
    assert len(entries) == 3969
    table = {
        architecture: {(each["accuracy"], each["params"], each["flops"])}
        for architecture, each in load_table().items()
    }
    assert table == entries


def test_best_by_cost_is_that_of_all_architectures() -> None:
    landscape = Landscape(seed=3, layers=5)
    expected = np.zeros(landscape.largest_cost + 1)
    for architecture in itertools.product(CANDIDATES, repeat=5):
        truth = landscape.truth(architecture)
        cost = int(truth["cost"])
        expected[cost] = max(expected[cost], truth["accuracy"])
    np.testing.assert_allclose(landscape.best_by_cost(), expected)


def test_landscape_is_read_with_the_noise_of_its_images() -> None:
    landscape = Landscape(seed=0)
    rng = np.random.default_rng(0)
    drawn = [landscape.space.sample(rng) for _ in range(500)]
    truth = np.array([landscape.truth(each)["accuracy"] for each in drawn])
    read = np.array([landscape.evaluate(each)["accuracy"] for each in drawn])
    assert truth.mean() == pytest.approx(TYPICAL, abs=0.5)
    assert (read - truth).std() == pytest.approx(100 * np.sqrt(0.7 * 0.3 / IMAGES), rel=0.15)
    assert landscape.evaluate(drawn[0]) == landscape.evaluate(drawn[0])
