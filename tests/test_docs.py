"""What the documents say can be done, done."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from documents import DOCUMENTS, ROOT
from spaces import random_images, random_labels, space_values

import evolute
from configs import preset_names
from configs.registry import load_plugins
from evaluators.metric import METRICS
from experiments.data.splits import load_splits
from search.samplers import SAMPLERS

GUIDE = ROOT / "docs" / "extending.md"


def plugin(folder: Path, name: str) -> Path:
    """Write the guide's file of a name."""
    found = re.search(rf"`{name}\.py`:\n\n```py\n(.*?)```", GUIDE.read_text("utf-8"), re.S)
    assert found is not None
    file = folder / f"{name}.py"
    file.write_text(found[1], encoding="utf-8")
    return file


def configuration(folder: Path, name: str, **sections) -> evolute.Config:
    """Write and read a small configuration that names one of the guide's files as its plugin."""
    plugin(folder, name)
    values = {"name": "own", "device": "cpu", "plugins": [f"{name}.py"], "space": space_values()}
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({**values, **sections}), encoding="utf-8")
    return evolute.load_config(file)


def test_the_operator_of_the_guide_is_a_candidate(tmp_path: Path) -> None:
    plugin(tmp_path, "shuffle")
    config = re.search(r"```yaml\n(plugins: \[shuffle.*?)```", GUIDE.read_text("utf-8"), re.S)
    assert config is not None
    stages = "  stages: [{width: 32, depth: 2}]\n"
    (tmp_path / "own.yaml").write_text(f"name: own\n{config[1]}{stages}", encoding="utf-8")
    space = evolute.SearchSpace.from_yaml(tmp_path / "own.yaml")
    network = evolute.build_network(space, ("shuffle2", "conv3"))
    assert network(torch.randn(1, 3, 7, 9)).shape == (1, 10)


def test_the_metric_of_the_guide_is_an_objective(tmp_path: Path) -> None:
    search = re.search(r"```yaml\nplugins: \[robust.*?\n(search:.*?)```", GUIDE.read_text(), re.S)
    assert search is not None
    config = configuration(tmp_path, "robustness", **yaml.safe_load(search[1]))
    assert config.search.objectives["noise_loss"] == "minimize"
    space = evolute.SearchSpace(config.space)
    images = [(random_images(32), random_labels(32))]
    subject = evolute.Subject(
        network=evolute.build_network(space, space.sample(_rng())),
        image_shape=(1, 8, 8),
        load_data=lambda: SimpleNamespace(calibration=images, validation=images),
        settings=config.latency,
        device=torch.device("cpu"),
    )
    assert METRICS["noise_loss"].values(subject)["noise_loss"] >= 0


def test_the_sampler_of_the_guide_searches(tmp_path: Path) -> None:
    load_plugins([plugin(tmp_path, "greedy")])
    assert "greedy" in SAMPLERS
    result = evolute.run_search(
        evolute.ChoiceSpace([("a", "b", "c")] * 5),
        lambda architecture: {"score": architecture.count("b")},
        {"score": "maximize"},
        trials=60,
        sampler="greedy",
        workers=0,
    )
    assert result.front[0].architecture == ("b",) * 5


def test_the_runtime_of_the_guide_is_timed(tmp_path: Path) -> None:
    config = configuration(tmp_path, "traced", latency={"runtime": "traced", "max_spread": 10})
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten())
    latency = evolute.measure_latency(network, (1, 8, 8), config.latency)
    assert latency.median_ms > 0 and latency.fingerprint["runtime"] == "traced"


def test_the_block_of_the_guide_is_in_a_supernet(tmp_path: Path) -> None:
    values = space_values(block="plain", candidates=("conv3", "inv3"))
    config = configuration(tmp_path, "plain", space=values)
    space = evolute.SearchSpace(config.space, config.plugins)
    supernet, architecture = evolute.Supernet(space).eval(), space.sample(_rng())
    images = random_images(2)
    expected = supernet(images, architecture)
    torch.testing.assert_close(supernet.extract(architecture)(images), expected)


def test_the_data_source_of_the_guide_is_split(tmp_path: Path) -> None:
    values = space_values(num_classes=2, input_size=16)
    config = configuration(tmp_path, "stripes", data={"name": "stripes"}, space=values)
    splits = load_splits(config, "cpu", test=True)
    assert splits.class_names == ["across", "down"]
    assert splits.sizes == {"train": 384, "validation": 96, "test": 120}
    images, _ = next(iter(splits.validation))
    assert images.shape[1:] == (1, 16, 16)


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "examples").glob("*.py"))])
def test_every_example_runs(name: str, tmp_path: Path, monkeypatch) -> None:
    import importlib.util

    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    settings = evolute.LatencySettings(max_spread=10, repeats=5)  # the tests share the machine
    module.main(*([settings] if name == "measure_beside_timm" else []))


def test_the_readme_names_every_preset_for_use() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in preset_names())


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_links_to_sections_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text("utf-8")):
            text = (document.parent / file if file else document).read_text(encoding="utf-8")
            heads = re.findall(r"^#+ (.+)$", text, re.M)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{document.name}: {file}#{anchor}"


def test_the_reference_has_every_public_name() -> None:
    """And nothing else; a name is written `::: MODULE.NAME` there."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: ([\w.]+)$", text, re.M)
    public = {f"{module}.{name}" for module, names in evolute._PUBLIC.items() for name in names}
    assert sorted(listed) == sorted(public)


def test_every_page_of_the_site_is_there_and_linked() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    assert pages == {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}


def test_the_map_of_the_house_names_files_that_exist() -> None:
    """Every `room/.../file.py` or folder that a document names is there."""
    rooms = "experiments|search|evaluators|supernet|search_space|configs|evolute"
    for document in DOCUMENTS:
        named = re.findall(rf"`((?:{rooms})/[\w/.*]*)`", document.read_text(encoding="utf-8"))
        for name in named:
            assert list(ROOT.glob(name.rstrip("/"))), f"{document.name}: {name}"


def test_documents_show_the_facade_only() -> None:
    rooms = "experiments|search|evaluators|supernet|search_space|configs"
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:python|py)\n(.*?)```", text, re.S):
            shown = re.findall(rf"^\s*(?:from|import) (?:{rooms})\b.*", block, re.M)
            assert not shown, f"{document.name}: {shown}"


def _rng():
    import numpy as np

    return np.random.default_rng(0)
