"""Find convolution/involution hybrid networks that are accurate and fast on your device.

Every public name of the rooms below, imported when it is first used: ``evolute.SearchSpace`` loads
torch, ``import evolute`` loads nothing. To add a name, write it into `_PUBLIC` and into the imports
for type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "configs": ("Config", "UserError", "load_config", "preset_names"),
    "configs.errors": ("TooNoisy",),
    "search_space": (
        "Architecture",
        "ChoiceSpace",
        "Layer",
        "Network",
        "SearchSpace",
        "build_network",
        "build_operator",
        "load_architecture",
        "load_plugins",
        "named_architecture",
        "operator_names",
        "operator_options",
        "reference_architecture",
        "register_operator",
        "save_architecture",
        "translate",
    ),
    "supernet": ("Supernet", "Trainer", "fair_paths", "fit", "uniform_paths"),
    "supernet.checkpoint": ("load_weights", "save_weights"),
    "evaluators": (
        "Latency",
        "count_macs",
        "count_params",
        "deployed",
        "exclusive_device",
        "fingerprint",
        "fingerprint_key",
        "measure_latency",
        "peak_memory_mb",
        "shared_device",
    ),
    "search": (
        "MetricRange",
        "SearchProgress",
        "SearchResult",
        "SpaceProfile",
        "TrialRecord",
        "check_feasible",
        "pareto_front",
        "profile_space",
        "run_search",
    ),
    "experiments.data.splits": ("load_splits",),
    "experiments.measure": ("measure",),
    "experiments.picking": ("read_front",),
    "experiments.reporting.report": ("pick",),
    "experiments.run": ("run_pipeline",),
    "experiments.tracking.tracker": ("Tracker",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULES]

if TYPE_CHECKING:
    from configs import Config as Config
    from configs import UserError as UserError
    from configs import load_config as load_config
    from configs import preset_names as preset_names
    from configs.errors import TooNoisy as TooNoisy
    from evaluators import Latency as Latency
    from evaluators import count_macs as count_macs
    from evaluators import count_params as count_params
    from evaluators import deployed as deployed
    from evaluators import exclusive_device as exclusive_device
    from evaluators import fingerprint as fingerprint
    from evaluators import fingerprint_key as fingerprint_key
    from evaluators import measure_latency as measure_latency
    from evaluators import peak_memory_mb as peak_memory_mb
    from evaluators import shared_device as shared_device
    from experiments.data.splits import load_splits as load_splits
    from experiments.measure import measure as measure
    from experiments.picking import read_front as read_front
    from experiments.reporting.report import pick as pick
    from experiments.run import run_pipeline as run_pipeline
    from experiments.tracking.tracker import Tracker as Tracker
    from search import MetricRange as MetricRange
    from search import SearchProgress as SearchProgress
    from search import SearchResult as SearchResult
    from search import SpaceProfile as SpaceProfile
    from search import TrialRecord as TrialRecord
    from search import check_feasible as check_feasible
    from search import pareto_front as pareto_front
    from search import profile_space as profile_space
    from search import run_search as run_search
    from search_space import Architecture as Architecture
    from search_space import ChoiceSpace as ChoiceSpace
    from search_space import Layer as Layer
    from search_space import Network as Network
    from search_space import SearchSpace as SearchSpace
    from search_space import build_network as build_network
    from search_space import build_operator as build_operator
    from search_space import load_architecture as load_architecture
    from search_space import load_plugins as load_plugins
    from search_space import named_architecture as named_architecture
    from search_space import operator_names as operator_names
    from search_space import operator_options as operator_options
    from search_space import reference_architecture as reference_architecture
    from search_space import register_operator as register_operator
    from search_space import save_architecture as save_architecture
    from search_space import translate as translate
    from supernet import Supernet as Supernet
    from supernet import Trainer as Trainer
    from supernet import fair_paths as fair_paths
    from supernet import fit as fit
    from supernet import uniform_paths as uniform_paths
    from supernet.checkpoint import load_weights as load_weights
    from supernet.checkpoint import save_weights as save_weights
else:  # hidden from type checkers, to which it would mean that any name exists

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'evolute' has no attribute {name!r}")
        from importlib import import_module

        from evolute.rooms import check_rooms

        check_rooms(_MODULES[name].partition(".")[0])
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value  # found without this function from now on
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
