"""The runtimes: one file each; importing this package registers all of them."""

from __future__ import annotations

import sys

from configs.registry import import_all
from evaluators.runtime import RUNTIMES, deployed, prepare, runtime_version

__all__ = ["RUNTIMES", "deployed", "prepare", "runtime_version"]

import_all(sys.modules[__name__])
