"""Which architecture to try next: the Optuna study, Ray Tune workers, the Pareto front."""

from __future__ import annotations

from search.profile import MetricRange, SpaceProfile, check_feasible, profile_space
from search.records import SearchProgress, SearchResult, TrialRecord, pareto_front
from search.run import SAMPLERS, run_search

__all__ = [
    "SAMPLERS",
    "MetricRange",
    "SearchProgress",
    "SearchResult",
    "SpaceProfile",
    "TrialRecord",
    "check_feasible",
    "pareto_front",
    "profile_space",
    "run_search",
]
