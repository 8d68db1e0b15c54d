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

import cloudpickle
import numpy as np

from configs.errors import UserError
from configs.registry import Registry, load_plugins, loaded_plugins
from configs.schema import Data


@dataclass(frozen=True)
class Files:
    """The files that images are decoded from, in the order of the images.

    Args:
        names: Paths below the root, with ``/``. The side of a split on which a file is depends on
            its name alone.
        sizes: In bytes, int64, shape (N,).
        content: Return the first bytes of a file, for ``(index, count)``; all for a count of -1.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    content: Callable[[int, int], bytes]


@dataclass(frozen=True)
class Images:
    """Labelled images that are read one by one.

    Args:
        origin: A name or a path, for messages.
        labels: Class numbers, int64, shape (N,).
        class_names: One per class, in the order of their numbers.
        read: Return the image of an index below N, as a PIL image of any size. It raises a
            `UserError` with the file's name where that is damaged. It is sent to other processes
            (``data.loading_workers``), together with what it refers to.
        versions: How many images, one after the other, show the same thing. They are never in two
            splits.
        files: Where the images are files: the splits then depend on these, not on the numbers.
        notes: What people should know of the images, a sentence each.
    """

    origin: str
    labels: np.ndarray
    class_names: list[str]
    read: Callable[[int], Any]
    versions: int = 1
    files: Files | None = None
    notes: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle `read` by value: it is a function inside a function, or one of a plugin.

        Files are left out, and notes: a process that reads images needs neither.
        """
        fields = (self.origin, self.labels, self.class_names, self.read, self.versions)
        try:
            return _received, (loaded_plugins(), cloudpickle.dumps(fields))
        except Exception as error:  # whatever it is that can't be pickled
            raise UserError(
                f"data.loading_workers: {self.origin} can't be read in other processes ({error}); "
                "0 reads it in this one"
            ) from None


def _received(plugins: list[str], fields: bytes) -> Images:
    load_plugins(plugins)
    return Images(*cloudpickle.loads(fields))


@dataclass(frozen=True)
class Source:
    """Training images and what opens the test images; None where the data has no test split."""

    train: Images
    test: Callable[[], Images] | None = None


SOURCES: Registry[Callable[[Data, str], Source]] = Registry("data source")
register_source = SOURCES.register
