"""`evolute init`: what the images decide in the configuration that is written."""

from __future__ import annotations

from pathlib import Path

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
