"""Which architecture to try next: the Optuna study, Ray Tune workers, the Pareto front."""

from __future__ import annotations

from search.records import SearchProgress, SearchResult, TrialRecord, pareto_front
from search.run import SAMPLERS, run_search

__all__ = [
    "SAMPLERS",
    "SearchProgress",
    "SearchResult",
    "TrialRecord",
    "pareto_front",
    "run_search",
]
