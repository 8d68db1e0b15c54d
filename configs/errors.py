"""The one exception that is meant for people rather than for a debugger."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: the message names the key, the value and what would be right.

    The command line prints the message alone and exits with code 2; ``--debug`` shows the trace.
    """
