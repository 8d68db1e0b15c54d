"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, embedded in the package."""

from __future__ import annotations

import numpy as np

from configs.schema import Data
from experiments.data.registry import Images, Source, register_source


@register_source("digits")
def digits(data: Data, mode: str) -> Source:
    """Return the digits; they have no test split."""
    from PIL import Image
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    images = Images(
        "digits",
        loaded.target.astype(np.int64),
        [str(name) for name in loaded.target_names],
        lambda index: Image.fromarray(pixels[index]).convert(mode),
    )
    return Source(images)
