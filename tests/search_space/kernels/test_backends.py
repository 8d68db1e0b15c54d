"""What runs an operator: one environment variable each, and a fallback on every platform."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UserError
from search_space.kernels import active_backends, expert_conv, involution

ROOT = Path(__file__).parents[3]
FALLBACKS = {"involution": "shift", "expert_conv": "grouped"}


def forget_choices() -> None:
    involution.active_backend.cache_clear()
    expert_conv.active_backend.cache_clear()


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch) -> Iterator[None]:
    for operator in FALLBACKS:
        monkeypatch.delenv(f"EVOLUTE_{operator.upper()}", raising=False)
    forget_choices()
    yield
    forget_choices()


def test_plain_torch_runs_elsewhere_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert active_backends("meta") == FALLBACKS


@pytest.mark.parametrize("operator", FALLBACKS)
def test_a_variable_forces_a_choice_for_its_own_operator_alone(operator, monkeypatch) -> None:
    before = active_backends("cpu")
    monkeypatch.setenv(f"EVOLUTE_{operator.upper()}", FALLBACKS[operator])
    forget_choices()
    assert active_backends("cpu") == {**before, operator: FALLBACKS[operator]}


@pytest.mark.parametrize(
    ("operator", "backends"),
    [("involution", "auto, native, triton, shift"), ("expert_conv", "auto, native, grouped")],
)
def test_a_choice_that_does_not_exist_is_refused(operator, backends, monkeypatch) -> None:
    variable = f"EVOLUTE_{operator.upper()}"
    monkeypatch.setenv(variable, "fastest")
    forget_choices()
    with pytest.raises(UserError, match=f"^{variable}=fastest: expected one of {backends}$"):
        active_backends("cpu")


@pytest.mark.parametrize("operator", FALLBACKS)
def test_a_native_kernel_refuses_other_devices(operator, monkeypatch) -> None:
    monkeypatch.setenv(f"EVOLUTE_{operator.upper()}", "native")
    forget_choices()
    with pytest.warns(RuntimeWarning, match=f"^{operator} on meta: the native kernel.*CPU only"):
        assert active_backends("meta") == FALLBACKS


ELSEWHERE = """
import os, sys, warnings
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == "fcntl":
            raise ModuleNotFoundError(name)
sys.modules.pop("fcntl", None)
sys.meta_path.insert(0, Refusing())
warnings.simplefilter("ignore")
import torch
del os.uname  # numpy asks for it where the system is Linux
from search_space import SearchSpace, build_network
from search_space.kernels import active_backends
from search_space.kernels.involution import involution
assert involution(torch.ones(1, 16, 4, 4), torch.ones(1, 9, 4, 4), 3)[0, 0, 1, 1] == 9
candidates = {"inv7": {"operator": "involution"}, "dyn3": {"operator": "dynamic"}}
space = SearchSpace.from_dict({"space": {
    "candidates": candidates, "stages": [{"width": 32, "depth": 2}], "input_size": 8,
}})
network = build_network(space, ("inv7", "dyn3"))
network(torch.randn(16, 3, 8, 8)).sum().backward()
assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
assert "fcntl" not in sys.modules
print(*active_backends("cpu").values())
"""


@pytest.mark.parametrize(
    ("compiler", "expected"),
    [(None, None), ("missing", "shift grouped"), ("failing", "shift grouped")],
)
def test_systems_without_locks_names_or_a_compiler(compiler, expected, tmp_path) -> None:
    """As on Windows: neither fcntl nor os.uname. With a compiler the native kernels run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    if compiler == "missing":
        environment["CXX"] = str(tmp_path / "g++")
    elif compiler == "failing":
        environment["CXX"] = "false"
    else:
        expected = " ".join(active_backends("cpu").values())
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == expected
