"""Imports go downwards and never in a circle; the core runs without the search stack."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("evolute", "experiments", "search", "evaluators", "supernet", "search_space", "configs")
FOLDERS = (
    *HOUSE, "experiments/data", "experiments/tracking", "experiments/reporting", "search/executors",
    "search_space/operators", "search_space/kernels/involution", "search_space/kernels/expert_conv",
    "evaluators/runtimes", "experiments/data/sources",
)  # fmt: skip
TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "optuna", "ray", "mlflow"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
%s
space = SearchSpace.from_yaml("quickstart")
point = tuple(layer.candidates[1] for layer in space.layers)
network = Supernet(space).eval().extract(point)
assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
assert build_network(space, point)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
print(count_params(network), count_macs(network, (1, 1, 8, 8)))
"""
FROM_ROOMS = """
from evaluators import count_macs, count_params
from search_space import SearchSpace, build_network
from supernet import Supernet
"""
FROM_FACADE = "from evolute import SearchSpace, Supernet, build_network, count_macs, count_params"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The file of every module of the house; a package is the module of its ``__init__``."""
    found = {}
    for room in HOUSE:
        for file in sorted((root / room).rglob("*.py")):
            path = file.relative_to(root).with_suffix("")
            parts = path.parts[:-1] if path.name == "__init__" else path.parts
            found[".".join(parts)] = file
    return found


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below a node that is run at some time: not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) in TYPES_ONLY:
            for statement in child.orelse:
                yield from imports(ast.Module([statement], []))
        else:
            yield from imports(child)


def absolute(module: str, file: Path, node: ast.ImportFrom) -> str:
    """The package or module that ``from ... import`` names, written out if it is relative."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules of the house each one imports.

    ``from package import name`` is an import of ``package.name`` where that is a module, and of the
    package's ``__init__`` otherwise. That Python runs the ``__init__`` of every package on the way
    is no import of it: a room's ``__init__`` may gather the names of its own modules.
    """
    edges: dict[str, set[str]] = {}
    for module, file in files.items():
        edges[module] = set()
        for node in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                source = absolute(module, file, node)
                inner = [f"{source}.{alias.name}" for alias in node.names]
                names = [name if name in files else source for name in inner]
            edges[module] |= {name for name in names if name in files}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Return modules of which each imports the next and the last is the first, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_rooms_are_there(folder: str) -> None:
    assert (ROOT / folder / "__init__.py").is_file()


@pytest.mark.parametrize("room", HOUSE)
def test_imports_go_downwards(room: str) -> None:
    above = HOUSE[: HOUSE.index(room)]
    files = {name: file for name, file in modules().items() if name.split(".")[0] == room}
    assert files
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):  # types as well
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [absolute(module, file, node)]
            climbing = [name for name in names if name.split(".")[0] in above]
            assert not climbing, f"{module} imports {climbing}"


def test_no_import_goes_in_a_circle() -> None:
    found = circle(graph(modules()))
    assert not found, " -> ".join(found)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "def f():\n    from search import b", "b": "import search.a"}, "a b"),
        ({"a": "from . import b", "b": "from .a import f", "c": ""}, "a b"),
        ({"a": "from search.b import x", "b": "from search.c import x", "c": "import search.a"},
         "a b c"),
        ({"__init__": "from search.a import f", "a": "from search import f"}, "__init__ a"),
        ({"__init__": "from search.a import f", "a": "from search import b", "b": ""}, ""),
        ({"a": "if TYPE_CHECKING:\n    import search.b\nelse:\n    x = 1", "b": "import search.a"},
         ""),
    ],
)  # fmt: skip
def test_circles_are_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    (tmp_path / "search").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (tmp_path / "search" / f"{name}.py").write_text(text)
    found = circle(graph(modules(tmp_path)))
    names = {f"search.{name}".removesuffix(".__init__") for name in expected.split()}
    assert set(found) == names
    if found:
        assert found[0] == found[-1] and len(found) == len(names) + 1
        edges = graph(modules(tmp_path))
        assert all(after in edges[before] for before, after in pairwise(found))


@pytest.mark.parametrize("names", [FROM_ROOMS, FROM_FACADE], ids=["rooms", "facade"])
def test_the_core_runs_without_pydantic_optuna_ray_and_mlflow(names: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT % names],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 0
