"""One network that holds every candidate of every layer; how it is trained, sampled and saved."""

from supernet.paths import Path, fair_paths, uniform_paths
from supernet.supernet import Supernet
from supernet.training import Trainer, fit

__all__ = ["Path", "Supernet", "Trainer", "fair_paths", "fit", "uniform_paths"]
