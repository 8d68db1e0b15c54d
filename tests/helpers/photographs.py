"""Small colour photographs in class folders, as a user has them: of many sizes, none square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bark", "moss", "sand")
COLOURS = np.array([(120, 90, 70), (100, 110, 70), (130, 110, 80)])  # alike: not all are told apart


def write_photographs(root: Path, train: int = 40, tested: int = 16) -> list[Path]:
    """Write `train` images a class below ``train`` and `tested` below ``val``; give the latter."""
    rng = np.random.default_rng(0)
    files = []
    for number, (name, colour) in enumerate(zip(CLASSES, COLOURS)):
        for index in range(train + tested):
            height, width = rng.integers(24, 49), rng.integers(32, 57)
            coarse = rng.normal(0, 18, (4 + 3 * number, 4 + 3 * number, 3)) + colour
            image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
            image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
            folder = root / ("train" if index < train else "val") / name
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index}.png")
            if index >= train:
                files.append(folder / f"{index}.png")
    return files
