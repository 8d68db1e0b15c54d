"""Which architecture to try next: the Optuna study, Ray Tune workers, the Pareto front."""

from __future__ import annotations

from search.run import SAMPLERS, run_search
from search.space_profile import MetricRange, SpaceProfile, check_feasible, profile_space
from search.trials import SearchProgress, SearchResult, TrialRecord, pareto_front

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
