"""Operators by name: the one place where a string selects code.

An operator is a function or class ``operator(in_channels, out_channels, stride, **options)`` that
returns a module mapping (B, in_channels, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride))
for any channel counts, odd sizes and batch 1. A user adds one in a file of their own::

    @register_operator("shuffle")
    def shuffle(in_channels, out_channels, stride, groups=4): ...

and names the file under ``plugins:`` in the configuration.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from configs.errors import UserError

Operator = Callable[..., nn.Module]
O = TypeVar("O", bound=Operator)  # noqa: E741

_OPERATORS: dict[str, Operator] = {}


def register_operator(name: str) -> Callable[[O], O]:
    """Decorator that makes a function or class available to configurations under a name.

    Raises:
        UserError: Another operator has that name already.
    """

    def register(operator: O) -> O:
        present = _OPERATORS.get(name)
        if present is not None and present.__qualname__ != operator.__qualname__:
            raise UserError(f"operator {name!r} is registered twice: {present} and {operator}")
        _OPERATORS[name] = operator
        return operator

    return register


def operator_names() -> list[str]:
    """Names of all registered operators, sorted."""
    return sorted(_OPERATORS)


def get_operator(name: str) -> Operator:
    """The registered operator.

    Raises:
        UserError: No operator has that name; the message names the nearest one.
    """
    if name not in _OPERATORS:
        near = difflib.get_close_matches(name, _OPERATORS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(operator_names())}"
        raise UserError(f"operator {name!r} is not registered; {hint}")
    return _OPERATORS[name]


def operator_options(name: str) -> list[str]:
    """Names of the options that an operator takes beside channels and stride."""
    return list(inspect.signature(get_operator(name)).parameters)[3:]


def build_operator(
    name: str, in_channels: int, out_channels: int, stride: int, **options: Any
) -> nn.Module:
    """Builds one operator.

    Raises:
        UserError: The name or an option is unknown.
    """
    operator = get_operator(name)
    for option in options:
        known = operator_options(name)
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise UserError(f"operator {name!r} has no option {option!r}; {hint}")
    return operator(in_channels, out_channels, stride, **options)


def load_plugins(files: Iterable[str | Path]) -> None:
    """Runs Python files that register operators. A file is run once, however often it is named.

    Raises:
        UserError: A file is missing or fails; the message names it.
    """
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise UserError(f"plugins: {str(file)!r} is not a file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        name = f"evolute_plugin_{path.stem}_{digest}"
        if name in sys.modules:
            continue
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        try:
            specification.loader.exec_module(module)
        except UserError:
            del sys.modules[name]
            raise
        except Exception as error:
            del sys.modules[name]
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"plugins: {str(file)!r} fails: {reason}") from error
