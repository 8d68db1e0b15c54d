"""`evolute init`: what the images decide in the configuration that is written."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from configs import Config, UserError, preset_names
from configs.loading import check_config
from experiments.all_keys import as_yaml, with_all_keys
from experiments.data.splits import load_splits
from experiments.new_config import write_config
from experiments.settings import load_config


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize(("side", "size"), [(20, 32), (130, 128)])
def test_the_configuration_that_is_written_fits_the_images(
    tmp_path: Path, preset: str, side: int, size: int
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (side, side + 9)).save(tmp_path / "all" / name / f"{index}.png")
    file = tmp_path / "own.yaml"
    write_config(tmp_path / "all", file, preset)
    config = load_config(file)
    assert config.name == "own"
    assert (config.space.input_size, config.space.num_classes) == (size, 2)
    if config.data.crop_scale == 1:  # otherwise crops are a share of the image already
        assert config.data.crop_padding == size // 8
    if load_config(preset).data.name == "images":
        assert config.data.root == str(tmp_path / "all")


def write_images(root: Path, side: int, mode: str, each: int = 40) -> Path:
    """Two classes of noise."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(each):
            shape = (side, side) if mode == "L" else (side, side, 3)
            pixels = draw.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_grey_images_have_one_channel_and_large_ones_a_larger_stride(tmp_path: Path) -> None:
    write_config(write_images(tmp_path / "grey", 28, "L"), tmp_path / "grey.yaml", "cifar10_cpu")
    grey = load_config(tmp_path / "grey.yaml").space
    assert (grey.in_channels, grey.stem.stride) == (1, 2)
    write_config(write_images(tmp_path / "big", 130, "RGB"), tmp_path / "big.yaml", "cifar10_cpu")
    big = load_config(tmp_path / "big.yaml").space
    assert (big.in_channels, big.input_size, big.stem.stride) == (3, 128, 4)


def test_a_run_is_made_as_short_as_asked_for(tmp_path: Path) -> None:
    images = write_images(tmp_path / "all", 32, "RGB", each=300)
    plan = write_config(images, tmp_path / "own.yaml", "cifar10_cpu", minutes=0.1)
    config = load_config(tmp_path / "own.yaml")
    assert config.train.epochs == 2 <= config.retrain.epochs < 5
    assert 40 <= config.search.trials < load_config("cifar10_cpu").search.trials
    assert plan is not None and plan.parts[1].count == config.search.trials
    assert "for 0.1 minutes" in (tmp_path / "own.yaml").read_text()
    assert 0 < config.data.limit < 600  # as few images as make some batches, and not fewer
    trained = len(load_splits(config, "cpu").train.indices)
    assert 4 * config.retrain.batch_size <= trained < 6 * config.retrain.batch_size


def keys(section: type = Config, prefix: str = "") -> set[str]:
    """All keys of the schema as ``section.key``; the schema of a stage is told elsewhere."""
    found = set()
    for name, kind in typing.get_type_hints(section).items():
        if name in {field.name for field in dataclasses.fields(section)}:
            found |= keys(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {
                prefix + name
            }  # fmt: skip
    return found


def paths(values: dict, schema: set[str], prefix: str = "") -> set[str]:
    return set().union(*(
        {prefix + key} if prefix + key in schema else paths(value, schema, f"{prefix}{key}.")
        for key, value in values.items()
    ))  # fmt: skip


def read(lines: list[str]) -> dict:
    return yaml.load("\n".join(lines), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def test_every_key_is_there_and_can_be_uncommented(tmp_path: Path) -> None:
    write_config(write_images(tmp_path / "all", 32, "RGB", each=10), tmp_path / "own.yaml",
                 "quickstart")  # fmt: skip
    lines = (tmp_path / "own.yaml").read_text().splitlines()
    schema, active = keys(), read(lines)
    config, present = check_config(active), paths(active, schema)
    for at, line in enumerate(lines):
        uncommented = re.sub(r"^( *)# (?=\w+: )", r"\1", line)
        if uncommented == line or at < 8:  # the heading
            continue
        try:
            values = read([*lines[:at], uncommented, *lines[at + 1 :]])
            known = check_config(values)
        except (yaml.YAMLError, UserError):
            continue  # a sentence with a colon
        present |= paths(values, schema)
        assert known == config, line
    assert present == schema


def test_a_section_that_is_missing_begins_with_its_first_key() -> None:
    space = "space:\n  stages: [{width: 8, depth: 1}]\n  candidates: {a: {operator: skip}}\n"
    text = with_all_keys(f"name: a\n{space}train: {{epochs: 3, batch_size: 8}}  # few\n")
    values = yaml.safe_load(text)
    assert values["train"] == {"epochs": 3, "batch_size": 8} and "# few" in text
    assert values["tracking"] == {"uri": ""} and values["verify"] == {"budget": 1.0}
    assert values["space"]["stem"] == {"width": 32} and "    # kind: conv" in text
    assert as_yaml(("a", "b")) == "[a, b]" and as_yaml({"a": 1.5}) == "{a: 1.5}"
