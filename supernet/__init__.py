"""One network that holds every candidate of every layer; how it is trained, sampled and saved."""

from supernet.checkpoint import load_weights, save_weights
from supernet.loop import Batches, fit
from supernet.paths import TrainingPath, fair_paths, uniform_paths
from supernet.supernet import Supernet
from supernet.trainer import Trainer, seed_everything

__all__ = [
    "Batches",
    "Supernet",
    "Trainer",
    "TrainingPath",
    "fair_paths",
    "fit",
    "load_weights",
    "save_weights",
    "seed_everything",
    "uniform_paths",
]
