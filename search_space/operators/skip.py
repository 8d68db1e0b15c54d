"""Skip: the layer is left out, so that depth is searched like everything else."""

from __future__ import annotations

from torch import nn

from configs.errors import UserError
from search_space.registry import register_operator


@register_operator("skip")
def skip(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the identity. It replaces a whole block, shared convolutions included.

    Raises:
        UserError: The shapes differ. A space never offers it there.
    """
    if in_channels != out_channels or stride != 1:
        raise UserError(
            f"skip: {in_channels} -> {out_channels} channels at stride {stride} is not possible; "
            "only equal channels at stride 1 are"
        )
    return nn.Identity()
