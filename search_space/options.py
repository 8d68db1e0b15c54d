"""What an operator's options may be, read off its signature: the one place where they are checked.

An ``int`` is at least 1 (or its default, where that is less), a ``float`` is finite, a ``bool`` is
true or false; an option without annotation is what its default is. What else an option needs is
said where it is declared, as in ``kernel_size: KernelSize = 3``.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from configs.errors import UserError
from configs.suggestions import did_you_mean


@dataclass(frozen=True)
class Allowed:
    """Which values an option may take, beyond those of its type.

    Args:
        holds: Whether a value is one of them.
        right: What is needed, in words that follow "is not possible".
    """

    holds: Callable[[Any], bool]
    right: str


def between(least: int, most: int) -> Allowed:
    """Return the rule of whole numbers from `least` to `most`, both included."""
    return Allowed(
        lambda value: least <= value <= most,
        f"a whole number from {least} to {most} is needed",
    )


def odd(least: int, most: int) -> Allowed:
    """Return the rule of odd numbers: the sizes of kernels that have a middle."""
    return Allowed(
        lambda value: least <= value <= most and value % 2 == 1,
        f"an odd number from {least} to {most} is needed",
    )


KernelSize = Annotated[int, odd(1, 99)]
Dilation = Annotated[int, between(1, 99)]
Experts = Annotated[int, between(1, 99)]  # kernels that are mixed

_OF_TYPE = {
    bool: Allowed(lambda value: isinstance(value, bool), "true or false is needed"),
    int: Allowed(
        lambda value: isinstance(value, int) and not isinstance(value, bool),
        "a whole number is needed",
    ),
    float: Allowed(
        lambda value: (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and -math.inf < value < math.inf
        ),
        "a finite number is needed",
    ),
    str: Allowed(lambda value: isinstance(value, str), "a text is needed"),
}


def option_names(operator: Callable[..., Any]) -> list[str]:
    """Return the names of the options that an operator takes beside channels and stride."""
    return list(inspect.signature(operator).parameters)[3:]


def check_options(name: str, operator: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check options against the operator's signature; what has no annotation is as its default.

    Raises:
        UserError: An option is unknown or its value is not possible.
    """
    parameters = inspect.signature(operator).parameters
    known = option_names(operator)
    hints = _annotations(operator)
    for option, value in options.items():
        if option not in known:
            hint = did_you_mean(option, known)
            raise UserError(f"operator {name!r} has no option {option!r}; {hint}")
        default = parameters[option].default
        for rule in _rules(hints.get(option, type(default)), default):
            if not rule.holds(value):
                raise UserError(f"{option}: {value!r} is not possible; {rule.right}")


def _annotations(operator: Callable[..., Any]) -> dict[str, Any]:
    function = operator.__init__ if isinstance(operator, type) else operator  # type: ignore[misc]
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name that only a type checker imports
        return {}


def _rules(annotation: Any, default: Any) -> list[Allowed]:
    """Return what a value must satisfy, in this order."""
    kind, declared = annotation, []
    if typing.get_origin(annotation) is Annotated:
        kind, *metadata = typing.get_args(annotation)
        declared = [rule for rule in metadata if isinstance(rule, Allowed)]
    elif kind is int:
        least = min(1, default) if isinstance(default, int) else 1  # a default is always possible
        declared = [Allowed(lambda value: value >= least, f"{least} or more is needed")]
    return [_OF_TYPE[kind], *declared] if kind in _OF_TYPE else declared
