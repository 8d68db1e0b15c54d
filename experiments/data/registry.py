"""Where images come from, by name.

A data source is a function ``source(data, mode)`` that returns a `Source`. Ours are the files of
`experiments.data.sources`; a user adds one in a file of their own::

    @register_source("stripes")
    def stripes(data, mode):
        read = lambda index: Image.open(FILES[index]).convert(mode)
        return Source(Images("stripes", LABELS, ["across", "down"], read))

and names the file under ``plugins:`` and the source as ``data.name``. ``data`` is that section of
the configuration, ``mode`` the colour mode of the space's images (``L`` or ``RGB``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.registry import Registry
from configs.schema import Data


@dataclass(frozen=True)
class Images:
    """Labelled images that are read one by one.

    Args:
        origin: A name or a path, for messages.
        labels: Class numbers, int64, shape (N,).
        class_names: One per class, in the order of their numbers.
        read: Return the image of an index below N, as a PIL image of any size. It raises a
            `UserError` with the file's name where that is damaged.
    """

    origin: str
    labels: np.ndarray
    class_names: list[str]
    read: Callable[[int], Any]


@dataclass(frozen=True)
class Source:
    """Training images and what opens the test images; None where the data has no test split."""

    train: Images
    test: Callable[[], Images] | None = None


SOURCES: Registry[Callable[[Data, str], Source]] = Registry("data source")
register_source = SOURCES.register
