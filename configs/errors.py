"""The two exceptions that carry a meaning across the rooms."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can correct: the message names the key, the value and what would be right.

    The command line prints the message alone and exits with code 2; ``--debug`` shows the trace.
    """


class TooNoisy(RuntimeError):
    """A device was too busy for a measurement: an outcome of its own, not an error of the network.

    A trial that ends with it is `unmeasurable`, not `failed`.
    """
