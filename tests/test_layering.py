"""Imports go downwards, and the core needs neither pydantic nor the search stack."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("experiments", "search", "evaluators", "supernet", "search_space", "configs")

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "optuna", "ray", "mlflow"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
from evaluators import count_macs, count_params
from search_space import SearchSpace, build_network
from supernet import Supernet
space = SearchSpace.from_yaml("quickstart")
point = tuple(layer.candidates[1] for layer in space.layers)
network = Supernet(space).eval().extract(point)
assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
print(count_params(network), count_macs(network, (1, 1, 8, 8)))
"""


@pytest.mark.parametrize("room", HOUSE)
def test_imports_go_downwards(room: str) -> None:
    above = HOUSE[: HOUSE.index(room)]
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            climbing = [name for name in names if name.split(".")[0] in above]
            assert not climbing, f"{file.relative_to(ROOT)} imports {climbing}"


def test_the_core_runs_without_pydantic_optuna_ray_and_mlflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 0
