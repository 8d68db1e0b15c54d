"""Which runtimes are here."""

from __future__ import annotations

import pytest

from configs import UserError
from evaluators.runtimes import runtime_version


def is_here(runtime: str) -> bool:
    """Return whether all that a runtime needs is installed."""
    try:
        runtime_version(runtime)
    except UserError:
        return False
    return True


def require(runtime: str) -> None:
    """Skip, with the reason, where a runtime is not here."""
    try:
        runtime_version(runtime)
    except UserError as error:
        pytest.skip(str(error))
