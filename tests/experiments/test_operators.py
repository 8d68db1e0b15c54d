"""The page of all operators: what is measured for it, and what is written."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest
from operator_oracles import OPERATORS
from rich.console import Console

from configs.errors import UserError
from evaluators import LatencySettings
from experiments.operators import describe, operators_table, write_markdown

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


@pytest.fixture(scope="module")
def table():
    return operators_table(
        [(8, 6), (16, 4)],
        LatencySettings(max_spread=10),
        names=["asymmetric", "convolution"],
        device="cpu",
    )


def test_fused_operators_cost_what_they_cost_when_deployed(table) -> None:
    trained, plain, *variants = table.rows
    assert [row.variant for row in variants] == ["kernel_size 1", "groups 4", "dilation 2"]
    assert variants[0].costs[0].params == 8 * 8
    for first, second, (channels, size) in zip(trained.costs, plain.costs, table.shapes):
        assert second.params == 9 * channels**2
        assert first.params == second.params + channels  # the bias
        assert first.macs == second.macs == 9 * channels**2 * size**2
        assert second.latency_ms is None or second.latency_ms > 0


def test_table_in_a_terminal(table) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(*table.tables())
    lines = text.getvalue()
    assert "8 channels, 6 x 6 pixels" in lines and "16 channels, 4 x 4 pixels" in lines
    assert "576" in lines and "2,304" in lines and "…" not in lines
    single = dataclasses.replace(table, shapes=table.shapes[:1])
    Console(file=text, width=200).print(*single.tables())
    assert "Y[o, p] = sum over i, u of W[o, i, u]" in text.getvalue()


def test_page_keeps_what_is_written_by_hand(table, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_markdown(page, table)
    once = page.read_text(encoding="utf-8")
    write_markdown(page, table)
    assert page.read_text(encoding="utf-8") == once
    assert "## Errors that are easy to repeat" in once and "8 × 6²: params" in once
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError, match="marks"):
        write_markdown(page, table)


def test_the_page_has_every_operator_as_it_is_now() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in OPERATORS:
        _, _, options = describe(name)
        row = re.search(rf"^\| `{name}` .*\| {re.escape(options)} \|$", text, re.MULTILINE)
        assert row, f"docs/operators.md lacks {name}; run `evolute operators`"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_says_what_it_computes(name: str) -> None:
    equation, sources, _ = describe(name)
    assert equation
    assert sources or name == "convolution"
