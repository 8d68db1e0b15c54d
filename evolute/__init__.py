"""Find convolution/involution hybrid networks that are accurate and fast on your device.

Every public name of the rooms below, imported when it is first used: ``evolute.SearchSpace`` loads
torch, ``import evolute`` loads nothing. To add a name, write it into `_PUBLIC` and into the imports
for type checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "configs": ("Config", "UserError", "preset_names"),
    "configs.errors": ("Stopped", "TooNoisy"),
    "configs.latency": ("LatencySettings",),
    "configs.registry": ("load_plugins",),
    "search_space": (
        "Architecture",
        "ChoiceSpace",
        "Layer",
        "Network",
        "SearchSpace",
        "build_network",
        "build_operator",
        "load_architecture",
        "named_architecture",
        "operator_names",
        "operator_options",
        "reference_architecture",
        "register_operator",
        "save_architecture",
        "translate",
    ),
    "search_space.blocks": ("Block", "register_block"),
    "supernet": (
        "Supernet",
        "Trainer",
        "TrainingPath",
        "fair_paths",
        "fit",
        "load_weights",
        "save_weights",
        "uniform_paths",
    ),
    "evaluators": (
        "Latency",
        "Metric",
        "Subject",
        "count_macs",
        "count_params",
        "deployed",
        "exclusive_device",
        "fingerprint",
        "fingerprint_key",
        "inherited_accuracy",
        "measure_accuracy",
        "measure_latency",
        "measure_reference",
        "peak_memory_mb",
        "recalibrate",
        "register_metric",
        "register_runtime",
        "shared_device",
    ),
    "evaluators.runtimes.onnxruntime_operators": ("onnxruntime_extension",),
    "evaluators.runtimes.openvino": ("openvino_extension",),
    "evaluators.metric": ("COUNTED", "EVALUATED", "TIMED"),
    "search": (
        "Goal",
        "SearchProgress",
        "SearchResult",
        "SpaceProfile",
        "TrialRecord",
        "check_feasible",
        "profile_space",
        "run_search",
    ),
    "search.problem": ("Problem",),
    "search.ranking": ("Ranking",),
    "search.features": ("architecture_features",),
    "search.fidelities": ("Fidelities", "Readings"),
    "search.samplers": ("Sampler", "register_sampler"),
    "search.surrogate": ("Surrogate",),
    "experiments.data.splits": ("load_splits",),
    "experiments.data.decoding": ("decode_image",),
    "experiments.data.registry": ("Files", "Images", "Source", "register_source"),
    "experiments.measure": ("measure",),
    "experiments.rank": ("rank_predictors",),
    "experiments.reporting.front": ("pick", "read_front"),
    "experiments.reporting.plots": ("plot_architectures", "plot_front"),
    "experiments.retrain": ("retrain_architecture",),
    "experiments.retrained": ("Retrained",),
    "experiments.run": ("run_pipeline",),
    "experiments.search": ("search_architectures",),
    "experiments.serving": ("Classifier",),
    "experiments.settings": ("load_config",),
    "experiments.tracking.tracker": ("Tracker",),
    "experiments.train": ("train_supernet",),
    "experiments.workspace": ("Workspace", "open_tracker", "open_workspace"),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULES]

if TYPE_CHECKING:
    from configs import Config as Config
    from configs import UserError as UserError
    from configs import preset_names as preset_names
    from configs.errors import Stopped as Stopped
    from configs.errors import TooNoisy as TooNoisy
    from configs.latency import LatencySettings as LatencySettings
    from configs.registry import load_plugins as load_plugins
    from evaluators import Latency as Latency
    from evaluators import Metric as Metric
    from evaluators import Subject as Subject
    from evaluators import count_macs as count_macs
    from evaluators import count_params as count_params
    from evaluators import deployed as deployed
    from evaluators import exclusive_device as exclusive_device
    from evaluators import fingerprint as fingerprint
    from evaluators import fingerprint_key as fingerprint_key
    from evaluators import inherited_accuracy as inherited_accuracy
    from evaluators import measure_accuracy as measure_accuracy
    from evaluators import measure_latency as measure_latency
    from evaluators import measure_reference as measure_reference
    from evaluators import peak_memory_mb as peak_memory_mb
    from evaluators import recalibrate as recalibrate
    from evaluators import register_metric as register_metric
    from evaluators import register_runtime as register_runtime
    from evaluators import shared_device as shared_device
    from evaluators.metric import COUNTED as COUNTED
    from evaluators.metric import EVALUATED as EVALUATED
    from evaluators.metric import TIMED as TIMED
    from evaluators.runtimes.onnxruntime_operators import (
        onnxruntime_extension as onnxruntime_extension,
    )
    from evaluators.runtimes.openvino import openvino_extension as openvino_extension
    from experiments.data.decoding import decode_image as decode_image
    from experiments.data.registry import Files as Files
    from experiments.data.registry import Images as Images
    from experiments.data.registry import Source as Source
    from experiments.data.registry import register_source as register_source
    from experiments.data.splits import load_splits as load_splits
    from experiments.measure import measure as measure
    from experiments.rank import rank_predictors as rank_predictors
    from experiments.reporting.front import pick as pick
    from experiments.reporting.front import read_front as read_front
    from experiments.reporting.plots import plot_architectures as plot_architectures
    from experiments.reporting.plots import plot_front as plot_front
    from experiments.retrain import retrain_architecture as retrain_architecture
    from experiments.retrained import Retrained as Retrained
    from experiments.run import run_pipeline as run_pipeline
    from experiments.search import search_architectures as search_architectures
    from experiments.serving import Classifier as Classifier
    from experiments.settings import load_config as load_config
    from experiments.tracking.tracker import Tracker as Tracker
    from experiments.train import train_supernet as train_supernet
    from experiments.workspace import Workspace as Workspace
    from experiments.workspace import open_tracker as open_tracker
    from experiments.workspace import open_workspace as open_workspace
    from search import Goal as Goal
    from search import SearchProgress as SearchProgress
    from search import SearchResult as SearchResult
    from search import SpaceProfile as SpaceProfile
    from search import TrialRecord as TrialRecord
    from search import check_feasible as check_feasible
    from search import profile_space as profile_space
    from search import run_search as run_search
    from search.features import architecture_features as architecture_features
    from search.fidelities import Fidelities as Fidelities
    from search.fidelities import Readings as Readings
    from search.problem import Problem as Problem
    from search.ranking import Ranking as Ranking
    from search.samplers import Sampler as Sampler
    from search.samplers import register_sampler as register_sampler
    from search.surrogate import Surrogate as Surrogate
    from search_space import Architecture as Architecture
    from search_space import ChoiceSpace as ChoiceSpace
    from search_space import Layer as Layer
    from search_space import Network as Network
    from search_space import SearchSpace as SearchSpace
    from search_space import build_network as build_network
    from search_space import build_operator as build_operator
    from search_space import load_architecture as load_architecture
    from search_space import named_architecture as named_architecture
    from search_space import operator_names as operator_names
    from search_space import operator_options as operator_options
    from search_space import reference_architecture as reference_architecture
    from search_space import register_operator as register_operator
    from search_space import save_architecture as save_architecture
    from search_space import translate as translate
    from search_space.blocks import Block as Block
    from search_space.blocks import register_block as register_block
    from supernet import Supernet as Supernet
    from supernet import Trainer as Trainer
    from supernet import TrainingPath as TrainingPath
    from supernet import fair_paths as fair_paths
    from supernet import fit as fit
    from supernet import load_weights as load_weights
    from supernet import save_weights as save_weights
    from supernet import uniform_paths as uniform_paths
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
