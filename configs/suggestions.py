"""What a mistyped name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 20  # names that are listed where none is near


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return ``did you mean 'conv3'?`` for the nearest known name.

    Args:
        name: What was given.
        known: The names that exist.
        otherwise: The text where none is near; default is the list of what is known.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    more = ", ..." if len(known) > SHOWN else ""
    return f"known: {', '.join(known[:SHOWN]) or 'none'}{more}"
