"""scikit-learn's handwritten digits, turned, slanted, scaled, shifted, and covered with noise.

The digits themselves are read with 99 % by almost any network; these leave room for differences.
"""

from __future__ import annotations

import numpy as np

from configs.schema import Data
from experiments.data.registry import Images, Source, register_source

SIZE = 12  # pixels
VERSIONS = 3  # of each of the 1,797 digits: 5,391 images
TURN, SLANT, SCALE, SHIFT = 0.6, 0.3, 0.25, 1.5  # at most: radians, shear, share, pixels
NOISE = 0.2  # its deviation, of the range of a pixel


@register_source("perturbed_digits")
def perturbed_digits(data: Data, mode: str) -> Source:
    """Return grey images of 12x12 pixels, the same at every call; they have no test split.

    The versions of one digit are never in two splits.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    loaded = load_digits()
    originals = loaded.images / 16

    def read(index: int) -> Image.Image:
        image = perturb(originals[index // VERSIONS], np.random.default_rng((index, 0)))
        return Image.fromarray(np.round(255 * image).astype(np.uint8)).convert(mode)

    return Source(
        Images(
            "perturbed_digits",
            np.repeat(loaded.target.astype(np.int64), VERSIONS),
            [str(name) for name in loaded.target_names],
            read,
            versions=VERSIONS,
        )
    )


def perturb(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a (SIZE, SIZE) version of a grey image, (H, W) from 0 to 1."""
    from scipy.ndimage import affine_transform

    turn, slant = rng.uniform(-TURN, TURN), rng.uniform(-SLANT, SLANT)
    scale = len(image) / (SIZE * rng.uniform(1 - SCALE, 1 + SCALE))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = scale * turned @ np.array([[1, slant], [0, 1]])
    centre = (SIZE - 1) / 2 + rng.uniform(-SHIFT, SHIFT, 2)
    offset = (len(image) - 1) / 2 - matrix @ centre
    moved = affine_transform(image, matrix, offset, (SIZE, SIZE), order=1)
    return np.clip(moved + rng.normal(0, NOISE, moved.shape), 0, 1)
