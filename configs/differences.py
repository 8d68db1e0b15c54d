"""Where two nested values differ, in words."""

from __future__ import annotations

from typing import Any


def first_difference(stored: Any, wanted: Any, key: str = "") -> str:
    """Name the first place where two trees of mappings, lists and values differ; "" if none does.

    Args:
        stored: What was written down earlier.
        wanted: What is asked for now.
        key: The path of both, put in front of the keys below it.
    """
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in [*stored, *(name for name in wanted if name not in stored)]:
            path = f"{key}.{name}" if key else str(name)
            if name not in stored:
                return f"{path} is {wanted[name]!r} now and was not set then"
            if name not in wanted:
                return f"{path} was {stored[name]!r} and is not set now"
            if difference := first_difference(stored[name], wanted[name], path):
                return difference
        return ""
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        pairs = enumerate(zip(stored, wanted))
        found = (first_difference(old, new, f"{key}[{index}]") for index, (old, new) in pairs)
        return next(filter(None, found), "")
    return "" if stored == wanted else f"{key} was {stored!r} and is {wanted!r} now"
