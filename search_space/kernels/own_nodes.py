"""Operators of ours as nodes of exported programs, for runtimes that have an extension of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

DOMAIN, VERSION = "evolute", 1
_kept = False  # whether an export keeps our operators


@contextlib.contextmanager
def kept_as_node() -> Iterator[None]:
    """Let exports in the block keep each of our operators as one node of our domain."""
    global _kept
    _kept = True
    try:
        yield
    finally:
        _kept = False


def is_kept() -> bool:
    """Return whether this is an export to ONNX that keeps our operators as nodes."""
    return _kept and torch.onnx.is_in_onnx_export()


def node(
    name: str, inputs: Sequence[Tensor], attributes: Mapping[str, int], shape: Sequence[int]
) -> Tensor:
    """Return what an export writes as one node; there is nothing to compute.

    Args:
        name: Without the domain.
        inputs: The first has the dtype of the output.
        shape: Of the output.
    """
    kept: dict[str, Any] = dict(attributes)
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, kept, dtype=inputs[0].dtype, shape=shape, version=VERSION
    )
