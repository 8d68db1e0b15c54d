"""Operators by name.

An operator is a function or class ``operator(in_channels, out_channels, stride, **options)`` that
returns a module mapping (B, in_channels, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride))
for any channel counts, odd sizes and batch 1. A user adds one in a file of their own::

    @register_operator("shuffle")
    def shuffle(in_channels, out_channels, stride, groups=4): ...

and names the file under ``plugins:`` in the configuration. Options are checked against the
signature (`search_space.options`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from configs.registry import Registry
from search_space.options import check_options, option_names

Operator = Callable[..., nn.Module]

_OPERATORS: Registry[Operator] = Registry("operator")
register_operator = _OPERATORS.register


def operator_names() -> list[str]:
    """Return the names of all registered operators, sorted."""
    return sorted(_OPERATORS)


def get_operator(name: str) -> Operator:
    """Return the operator that is registered under a name.

    Raises:
        UserError: No operator has that name; the message names the nearest one.
    """
    return _OPERATORS[name]


def operator_options(name: str) -> list[str]:
    """Return the names of the options that an operator takes beside channels and stride."""
    return option_names(get_operator(name))


def build_operator(
    name: str, in_channels: int, out_channels: int, stride: int, **options: Any
) -> nn.Module:
    """Build one operator.

    Raises:
        UserError: The name or an option is unknown, or an option's value is not possible.
    """
    operator = get_operator(name)
    check_options(name, operator, options)
    return operator(in_channels, out_channels, stride, **options)
