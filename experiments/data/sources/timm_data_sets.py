"""Every data set that timm opens by name, such as ``torch/cifar10`` or ``hfds/uoft-cs/cifar10``."""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.errors import UserError
from configs.schema import Data
from experiments.data.decoding import in_mode
from experiments.data.registry import Images, Source, register_source


@register_source("timm")  # what every `data.name` with a "/" means
def timm_data_set(data: Data, mode: str) -> Source:
    """Open the splits ``train`` and ``validation`` of a data set below ``data.root``.

    Raises:
        UserError: timm, or the library behind the name, can't open it.
    """

    def open_split(split: str) -> Images:
        from timm.data import create_dataset

        try:
            dataset = create_dataset(
                data.name, root=data.root or None, split=split, is_training=False
            )
        except Exception as error:  # timm raises what the library behind the name raises
            raise UserError(f"data.name: {data.name!r} can't be opened ({error})") from None
        targets = getattr(dataset, "targets", None)
        if targets is None:
            targets = [dataset[i][1] for i in range(len(dataset))]
        names = getattr(dataset, "classes", None) or [str(c) for c in sorted(set(targets))]

        def read(index: int) -> Any:
            return in_mode(dataset[index][0], mode)

        labels = np.array(targets, dtype=np.int64)
        return Images(f"{data.name} ({split})", labels, list(names), read)

    return Source(open_split("train"), lambda: open_split("validation"))
