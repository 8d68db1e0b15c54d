"""What the documents say can be done, done."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from configs import preset_names
from search_space import SearchSpace, build_network

ROOT = Path(__file__).parents[1]


def test_the_operator_of_the_guide_is_a_candidate(tmp_path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code = re.search(r"`shuffle\.py`:\n\n```py\n(.*?)```", text, re.S)
    config = re.search(r"```yaml\n(plugins:.*?)```", text, re.S)
    assert code is not None and config is not None
    (tmp_path / "shuffle.py").write_text(code[1], encoding="utf-8")
    stages = "  stages: [{width: 32, depth: 2}]\n"
    (tmp_path / "own.yaml").write_text(f"name: own\n{config[1]}{stages}", encoding="utf-8")
    space = SearchSpace.from_yaml(tmp_path / "own.yaml")
    network = build_network(space, ("shuffle2", "conv3"))
    assert network(torch.randn(1, 3, 7, 9)).shape == (1, 10)


def test_the_readme_names_every_preset_for_use() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in preset_names())


def test_links_between_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_example_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(from search import.*?)```", readme, re.S)
    assert example is not None
    names: dict[str, object] = {}
    exec(compile(example[1], "README.md", "exec"), names)
    assert names["network"](torch.randn(1, 1, 8, 8)).shape == (1, 10)  # type: ignore[operator]
