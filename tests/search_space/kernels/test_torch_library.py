"""Our operators as a library for programs without our Python code: the same numbers, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from search_space.kernels import expert_conv, involution
from search_space.kernels.torch_library import operators_library

PROGRAM = """
import sys, torch
torch.ops.load_library(sys.argv[1])
cases = torch.load(sys.argv[2], weights_only=True)
found = [getattr(torch.ops.evolute, name)(*given) for name, given in cases]
torch.save([(each, each.stride()) for each in found], sys.argv[3])
x, weight = cases[0][1][:2]
for wrong in ((x, weight[:, 1:], 3, 1, 1), (x, weight, 2, 1, 1), (x, weight.double(), 3, 1, 1)):
    try:
        torch.ops.evolute.involution(*wrong)
    except ValueError as error:
        print(str(error).splitlines()[0])
"""


def test_the_library_computes_what_python_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, last = torch.randn(2, 32, 9, 7), torch.channels_last
    weight, coarse = torch.randn(2, 2 * 9, 9, 7), torch.randn(2, 2 * 9, 5, 4)
    experts, shares = torch.randn(4, 40, 32, 3, 3), torch.rand(2, 4)
    cases = [
        ("involution", (x, weight, 3, 1, 1)),
        ("involution", (x.to(memory_format=last), weight, 3, 1, 2)),
        ("involution", (x, coarse.to(memory_format=last), 3, 2, 1)),
        ("involution", (x.bfloat16(), weight.bfloat16(), 3, 1, 1)),
        ("expert_convolution", (x, experts, shares, 1, 1)),
        ("expert_convolution", (x.to(memory_format=last), experts, shares, 2, 0)),
    ]
    operators = {
        "involution": involution.involution,
        "expert_convolution": expert_conv.expert_convolution,
    }
    torch.save(cases, tmp_path / "cases.pt")
    files = [str(tmp_path / name) for name in ("cases.pt", "found.pt")]
    command = [sys.executable, "-P", "-c", PROGRAM, str(operators_library()), *files]
    printed = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300
    ).stdout.splitlines()
    for (name, given), (found, stride) in zip(cases, torch.load(files[1], weights_only=True)):
        expected = operators[name](*given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert stride == expected.stride()
    assert [line.split(" ")[0] for line in printed] == ["involution"] * 3
