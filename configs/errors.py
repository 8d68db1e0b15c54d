"""The three exceptions that carry a meaning across the rooms."""

from __future__ import annotations

from collections.abc import Mapping

from configs.secrets import redact


class UserError(ValueError):
    """Something the user can correct: the message names the key, the value and what would be right.

    The command line prints the message alone and exits with code 2; ``--debug`` shows the trace.
    Passwords and the like are left out of the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class TooNoisy(RuntimeError):
    """A device was too busy for a measurement: an outcome of its own, not an error of the network.

    A trial that ends with it is `unmeasurable`, not `failed`.
    """


class Stopped(Exception):
    """An architecture cannot reach the front any more, so an evaluator measured no further.

    A trial that ends with it is `stopped`, not `failed`.

    Args:
        metrics: What is known of the architecture, with what was read of the metric that stopped.
    """

    def __init__(self, message: str, metrics: Mapping[str, float]) -> None:
        super().__init__(message)
        self.metrics = dict(metrics)
