"""Operators by name.

An operator is a function or class ``operator(in_channels, out_channels, stride, **options)`` that
returns a module mapping (B, in_channels, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride))
for any channel counts, odd sizes and batch 1. A user adds one in a file of their own::

    @register_operator("shuffle")
    def shuffle(in_channels, out_channels, stride, groups=4): ...

and names the file under ``plugins:`` in the configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from configs.errors import UserError
from configs.registry import Registry
from configs.suggestions import did_you_mean

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
    return list(inspect.signature(get_operator(name)).parameters)[3:]


def build_operator(
    name: str, in_channels: int, out_channels: int, stride: int, **options: Any
) -> nn.Module:
    """Build one operator.

    Raises:
        UserError: The name or an option is unknown.
    """
    known = operator_options(name)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise UserError(f"operator {name!r} has no option {option!r}; {hint}")
    return get_operator(name)(in_channels, out_channels, stride, **options)
