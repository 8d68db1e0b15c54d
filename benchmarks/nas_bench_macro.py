"""NAS-Bench-Macro (Su et al., CVPR 2021, https://arxiv.org/abs/2103.11922) as a space and a table.

6,561 architectures of eight layers, each trained alone three times on CIFAR-10. The layers are in
stages of 2, 3 and 3; each is the identity (``0``; where a stage begins, a strided 1x1
convolution), an inverted residual with a 3x3 kernel and 3-fold expansion (``1``) or with a 5x5
kernel and 6-fold expansion (``2``).
"""

from __future__ import annotations

import json
from pathlib import Path

from search_space import Architecture, ChoiceSpace

DATA = Path(__file__).parents[2] / "shared" / "data" / "nas-bench-macro_cifar10.json"
STAGES = (2, 3, 3)  # layers
CANDIDATES = ("0", "1", "2")
IDENTITY = "0"


class NasBenchMacro(ChoiceSpace):
    """The space; ``"".join(architecture)`` is the key of the published table."""

    def __init__(self) -> None:
        super().__init__([CANDIDATES] * sum(STAGES))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Move identities to the end of their stage, which leaves the network as it is.

        The first layer of a stage stays: it changes the shape.
        """
        canonical: list[str] = []
        for layers in STAGES:
            first, *others = architecture[len(canonical) : len(canonical) + layers]
            canonical += [first, *sorted(others, key=IDENTITY.__eq__)]  # stable
        return tuple(canonical)


def load_table(path: Path = DATA) -> dict[Architecture, dict[str, float]]:
    """Return the metrics of each different network, 3,969 of them, by its canonical form.

    ``accuracy`` (test images, mean of three trainings, in percent), ``params`` and ``flops``.
    The published entries of equal networks are equal too.
    """
    space = NasBenchMacro()
    return {
        architecture: {
            "accuracy": entry["mean_acc"],
            "params": float(entry["params"]),
            "flops": float(entry["flops"]),
        }
        for architecture, entry in (
            (tuple(key), e) for key, e in json.loads(path.read_text()).items()
        )
        if space.canonical(architecture) == architecture
    }
