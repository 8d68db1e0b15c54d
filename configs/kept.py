"""Small files that a run keeps and reads again: a damaged one is told from a missing one.

What a power cut or a full disk left of a file is either made again from what else is kept
(`read_or_none`) or refused with what to do (`read_json`); it is never believed.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UserError

logger = logging.getLogger("evolute.files")

T = TypeVar("T")

WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of text or of values
ASIDE = ".damaged"  # behind the name of a file that is made again


def read_json(file: Path, parse: Callable[[Any], T], way_out: str) -> T:
    """Return what a JSON file holds, as `parse` makes it of plain values.

    Args:
        parse: Raises one of `WRONG` where the values are not what the file should hold.
        way_out: What a person can do where it is damaged.

    Raises:
        UserError: It is damaged; the message names the file, the reason and the way out.
    """
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except WRONG as error:
        raise UserError(f"{file} is damaged ({reason_of(file, error)}); {way_out}") from None


def read_or_none(file: Path, parse: Callable[[Any], T], instead: str) -> T | None:
    """Return what `read_json` does; None where there is no such file, or a damaged one.

    A damaged file is moved aside, to NAME.damaged, and that is said.

    Args:
        instead: What happens without it.
    """
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except WRONG as error:
        reason = reason_of(file, error)
    with contextlib.suppress(OSError):  # another process was first, or nothing can be moved there
        file.replace(file.with_name(file.name + ASIDE))
        logger.warning(
            "%s is damaged (%s) and was moved to %s; %s.", file, reason, file.name + ASIDE, instead
        )
    return None


def reason_of(file: Path, error: Exception) -> str:
    """Return in some words what is wrong with a file that could not be understood."""
    with contextlib.suppress(OSError):
        if file.stat().st_size == 0:
            return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error) or type(error).__name__).splitlines()[0][:100]


def numbers(values: Any) -> dict[str, float]:
    """Return a mapping of names to numbers.

    Raises:
        TypeError: It is something else, or empty.
    """
    if not isinstance(values, dict) or not values:
        raise TypeError("names and numbers are needed")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name!r} is no number")
    return values
