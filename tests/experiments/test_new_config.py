"""`evolute init`: what the images decide in the configuration that is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import preset_names
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
    images = write_images(tmp_path / "all", 32, "RGB", each=120)
    plan = write_config(images, tmp_path / "own.yaml", "cifar10_cpu", minutes=1.5)
    config = load_config(tmp_path / "own.yaml")
    assert config.train.epochs == 2 <= config.retrain.epochs < 5
    assert 40 <= config.search.trials < load_config("cifar10_cpu").search.trials
    assert plan is not None and plan.parts[1].count == config.search.trials
    assert "for 1.5 minutes" in (tmp_path / "own.yaml").read_text()
