"""Evaluation in the process of the search itself: no Ray, one architecture at a time.

An evaluator can be debugged here, a notebook starts at once, and a search over a table takes
seconds. The trials are those that one worker would make.
"""

from __future__ import annotations

from search.executors.evaluation import evaluate
from search.executors.executor import Evaluator, Finish, Propose
from search.executors.process import on_stop_signal, time_limit


def run_here(
    evaluator: Evaluator, propose: Propose, finish: Finish, timeout_s: float | None = None
) -> None:
    """Evaluate what is proposed until there is no more.

    SIGINT and SIGTERM interrupt an evaluation at once, but never a write: what is finished is
    recorded first.

    Args:
        timeout_s: After which an evaluation ends with TimeoutError; where this is not the main
            thread, or the system has no alarms, nothing limits it.

    Raises:
        KeyboardInterrupt: The process was asked to end.
    """
    evaluating = stopping = False

    def stop() -> None:
        nonlocal stopping
        if evaluating or stopping:
            raise KeyboardInterrupt
        stopping = True

    with on_stop_signal(stop):
        while not stopping and (task := propose()) is not None:
            evaluating = True
            with time_limit(timeout_s):
                outcome = evaluate(lambda: evaluator, task)
            evaluating = False
            finish(task.architecture, outcome)
    if stopping:
        raise KeyboardInterrupt
