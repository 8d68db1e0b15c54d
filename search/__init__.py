"""Which architecture to try next: the goal, the Optuna study, samplers, executors, the front.

Importing it loads neither torch nor Optuna nor Ray: a worker that looks numbers up in a table needs
none of the first two.
"""

from __future__ import annotations

from search.goal import Goal
from search.progress import SearchProgress
from search.run import run_search
from search.space_profile import MetricRange, SpaceProfile, check_feasible, profile_space
from search.trials import SearchResult, TrialRecord

__all__ = [
    "Goal",
    "MetricRange",
    "SearchProgress",
    "SearchResult",
    "SpaceProfile",
    "TrialRecord",
    "check_feasible",
    "profile_space",
    "run_search",
]
